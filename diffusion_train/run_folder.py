"""Names and paths of the files of a run."""

from __future__ import annotations

import re
from pathlib import Path

LAST = "last.ckpt"  # the link to the newest checkpoint


class RunFolder:
    """Paths of the files of a run; `path` is its `run_dir`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config, self.data = path / "config.yaml", path / "data.json"
        self.weights, self.metrics = path / "weights.safetensors", path / "metrics.csv"
        self.checkpoints, self.samples = path / "checkpoints", path / "samples"
        self.changes, self.skipped_steps = path / "changes.jsonl", path / "skipped_steps.jsonl"
        self.approvals, self.review_lock = path / "approvals.json", path / ".review.lock"
        self.report, self.report_page, self.report_images = (
            path / name for name in ("report.json", "report.html", "report_images")
        )

    @property
    def last_checkpoint(self) -> Path | None:
        """The link to the newest checkpoint; the checkpoint itself where links cannot be made;
        None if there is none.
        """
        link = self.checkpoints / LAST
        return link if link.exists() else next(iter(by_step(self.checkpoints)), None)

    @property
    def last_samples(self) -> Path | None:
        """The newest sample grid, or None. It is copied, so a link out of the folder does not count."""
        inside = (
            file for file in self.samples.glob("step_*.png") if file.resolve().is_relative_to(self.path.resolve())
        )
        return max(inside, default=None)


def step_name(step: int) -> str:
    """Return the file name of the checkpoint of a step."""
    return f"step_{step:08d}.ckpt"


def by_step(folder: Path) -> list[Path]:
    """Return the checkpoints of a folder, newest step first."""
    named = [(re.fullmatch(r"step_(\d+)", path.stem), path) for path in folder.glob("step_*.ckpt")]
    steps = [(int(match[1]), path) for match, path in named if match]
    return [path for _, path in sorted(steps, reverse=True)]


def weights_file(run: Path, key: str = "run") -> Path:
    """Return the weights file of a run folder, or `run` itself if it is a file.

    Raises ValueError, which names the setting `key`, if there is no such file.
    """
    file = RunFolder(run).weights if run.is_dir() else run
    if not file.is_file():
        raise ValueError(f"{key}={run}: no weights.safetensors found; the run writes it with its first checkpoint")
    return file
