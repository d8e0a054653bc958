"""The files of a run: their names and where they lie."""

from __future__ import annotations

from pathlib import Path


class RunFolder:
    """`path` is `run_dir`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config, self.data = path / "config.yaml", path / "data.json"
        self.weights, self.metrics = path / "weights.safetensors", path / "metrics.csv"
        self.checkpoints, self.samples = path / "checkpoints", path / "samples"
        self.last_checkpoint = self.checkpoints / "last.ckpt"
        self.report, self.report_page, self.report_images = (
            path / name for name in ("report.json", "report.html", "report_images")
        )

    @property
    def last_samples(self) -> Path | None:
        """The newest grid of samples."""
        return max(self.samples.glob("step_*.png"), default=None)


def weights_file(run: Path, key: str = "run") -> Path:
    """The weights of a run folder, or `run` itself where it is such a file.

    Raises ValueError, which names the setting `key`, where there are no weights.
    """
    file = RunFolder(run).weights if run.is_dir() else run
    if not file.is_file():
        raise ValueError(f"{key}={run}: no weights.safetensors there; they are written with the run's first checkpoint")
    return file
