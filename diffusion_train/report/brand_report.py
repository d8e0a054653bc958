"""The brand report of a run folder: measured, kept as report.json, and shown as report.html."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from diffusion_train import __version__
from diffusion_train.data.caption.prompt_list import read_prompts
from diffusion_train.metric.extractor import EfficientNetLite0
from diffusion_train.report.album import Album
from diffusion_train.report.build import build
from diffusion_train.report.drawing import Artist, Settings
from diffusion_train.report.marks import merged, read_marks
from diffusion_train.report.report_page import report_page
from diffusion_train.run_folder import RunFolder, weights_file
from diffusion_train.training.weights import load_weights
from diffusion_train.utils.files import atomic_file, file_sha256
from diffusion_train.utils.tensor import best_device

Report = dict[str, Any]


def write_report(run: Path, cfg: DictConfig, settings: Mapping[str, Any]) -> None:
    """Measures the run of config `cfg` and writes its report; marks that an older report holds are kept.

    `settings` are those of conf/report.yaml.
    """
    folder, device, weights = RunFolder(run), best_device(), weights_file(run)
    artist = Artist(read_settings(settings), EfficientNetLite0().to(device), Album(folder.report_images))
    report = build(run, cfg, artist, device)
    step = load_weights(weights)[1].get("step")
    facts = {
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "version": __version__,
        "weights": file_sha256(weights)[:16],
        "step": step if isinstance(step, int) else None,
        "marks": _read(folder)["marks"] if folder.report.is_file() else [],
    }
    _write(folder, {**report, **facts})


def add_marks(run: Path, file: Path) -> None:
    """Adds a reviewer's marks to the report that is there. Raises ValueError if there is none."""
    folder = RunFolder(run)
    if not folder.report.is_file():
        raise ValueError(f"run={run}: no report.json there to take marks into; leave marks out to make one")
    report, marks = _read(folder), read_marks(file)
    images = {sample["image"] for sample in report["samples"]}
    unknown = sum(mark["image"] not in images for mark in marks)
    print(f"{len(marks)} marks" + (f", {unknown} of them on images that this report does not show" if unknown else ""))
    _write(folder, {**report, "marks": merged(report["marks"], marks)})


def read_settings(settings: Mapping[str, Any]) -> Settings:
    plain = {name: settings[name] for name in Settings.__dataclass_fields__}
    listed = {name: read_prompts(settings[name]) for name in ("prompts", "general_prompts")}
    sources = None if settings["sources"] is None else list(settings["sources"])
    return Settings(**{**plain, **listed, "sources": sources, "scales": list(settings["scales"])})


def _read(folder: RunFolder) -> Report:
    report: Report = json.loads(folder.report.read_text("utf-8"))
    return report


def _write(folder: RunFolder, report: Report) -> None:
    with atomic_file(folder.report) as file:
        file.write(json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False).encode("utf-8", "replace"))
    with atomic_file(folder.report_page) as file:
        file.write(report_page(report, folder.report_images).encode("utf-8", "replace"))
    print(f"report: {folder.report_page}")
