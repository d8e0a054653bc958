"""Write what the person who approves a run's images must know: how close to the brand, what was copied, which rights."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

SUMMARY = "write a run's report for who approves its images"
EXAMPLE = """diffusion-train report run=runs/brand/<date_time>
diffusion-train report run=runs/brand/<date_time> marks=marks.json"""


def run(cfg: Any) -> int:
    """`cfg` is the run's config; this command's settings are in `cfg.report`."""
    from diffusion_train.command.exit import Exit
    from diffusion_train.command.messages import quiet

    quiet()
    folder = Path(cfg.report.run)
    if not folder.is_dir():
        raise ValueError(f"run={folder}: the report is written into a run folder; give one")
    report = add_marks(folder, Path(cfg.report.marks)) if cfg.report.marks else measured(folder, cfg, cfg.report)
    write(folder, report)
    return Exit.DONE


def write_at_end(folder: Path, cfg: Any) -> None:
    """For a training run that has just come to its end: with the settings of report.yaml as they stand there."""
    import yaml

    from diffusion_train.config.folders import conf_folder

    write(folder, measured(folder, cfg, yaml.safe_load((conf_folder() / "report.yaml").read_text("utf-8"))))


def measured(folder: Path, cfg: Any, ask: Any) -> dict[str, Any]:
    """A new report; marks that an older one holds are kept. Its pictures are written."""
    from diffusion_train import __version__
    from diffusion_train.metric.extractor import EfficientNetLite0
    from diffusion_train.report.album import Album
    from diffusion_train.report.build import build
    from diffusion_train.report.drawing import Artist
    from diffusion_train.run_folder import best_device, fingerprint, weights_file

    device = best_device()
    artist = Artist(settings(ask), EfficientNetLite0().to(device), Album(folder / "report_images"))
    report = build(folder, cfg, artist, device)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    made = {"made": now, "version": __version__, "weights": fingerprint(weights_file(folder)), "step": step_of(folder)}
    older = folder / "report.json"
    return {**report, **made, "marks": json.loads(older.read_text("utf-8"))["marks"] if older.is_file() else []}


def settings(ask: Any) -> Any:
    from diffusion_train.command.sample import read_prompts
    from diffusion_train.report.drawing import Settings

    plain = {name: ask[name] for name in Settings.__dataclass_fields__}
    listed = {name: read_prompts(ask[name]) for name in ("prompts", "general_prompts")}
    sources = None if ask["sources"] is None else list(ask["sources"])
    return Settings(**{**plain, **listed, "sources": sources, "scales": list(ask["scales"])})


def add_marks(folder: Path, file: Path) -> dict[str, Any]:
    """The report that is there, with a reviewer's marks. Raises ValueError if there is none."""
    from diffusion_train.report.marks import merged, read_marks

    older = folder / "report.json"
    if not older.is_file():
        raise ValueError(f"run={folder}: no report.json there to take marks into; leave marks out to make one")
    report: dict[str, Any] = json.loads(older.read_text("utf-8"))
    marks = read_marks(file)
    shown = {sample["image"] for sample in report["samples"]}
    unknown = sum(mark["image"] not in shown for mark in marks)
    print(f"{len(marks)} marks" + (f", {unknown} of them on images that this report does not show" if unknown else ""))
    return {**report, "marks": merged(report["marks"], marks)}


def write(folder: Path, report: dict[str, Any]) -> None:
    from diffusion_train.report.page import page
    from diffusion_train.utils.files import atomic_file

    with atomic_file(folder / "report.json") as file:
        file.write(json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False).encode("utf-8", "replace"))
    with atomic_file(folder / "report.html") as file:
        file.write(page(report, folder / "report_images").encode("utf-8", "replace"))
    print(f"report: {folder / 'report.html'}")


def step_of(folder: Path) -> int | None:
    from diffusion_train.run_folder import weights_file
    from diffusion_train.training.weights import load_weights

    step = load_weights(weights_file(folder))[1].get("step")
    return step if isinstance(step, int) else None
