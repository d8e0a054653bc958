"""The brand report of a run folder: measures the run, and writes report.json and report.html."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cattrs import ClassValidationError, Converter, transform_error
from cattrs.gen import make_dict_unstructure_fn, override
from omegaconf import DictConfig

from diffusion_train.approval import approvals_of, approve_command
from diffusion_train.data.caption.prompt_list import read_prompts
from diffusion_train.metric.extractor import EfficientNetLite0
from diffusion_train.report.album import Album
from diffusion_train.report.build import build
from diffusion_train.report.drawing import Artist, Settings
from diffusion_train.report.facts import Fidelity, Report, Rights
from diffusion_train.report.marks import Mark, merged
from diffusion_train.report.report_page import report_page
from diffusion_train.run_folder import RunFolder
from diffusion_train.utils.files import atomic_file
from diffusion_train.utils.tensor import best_device
from diffusion_train.utils.text import argument


def write_report(run: Path, cfg: DictConfig, settings: Mapping[str, Any]) -> None:
    """Measure the run of config `cfg` and write its report, with the marks of an older report if there is one.

    `settings` are those of conf/report.yaml.
    """
    folder, device = RunFolder(run), best_device()
    older = _read(folder) if folder.report.is_file() else {}
    marks = [Mark(**mark) for mark in older.get("marks", [])]
    approvals_of(run, None)  # an unreadable file fails before hours of drawing
    artist = Artist(read_settings(settings), EfficientNetLite0().to(device), Album(folder.report_images))
    report = build(run, cfg, artist, device)
    brand, owner = report.brand or older.get("brand"), report.owner or older.get("owner")
    show_report(run, replace(report, marks=marks, brand=brand, owner=owner))


def read_report(run: Path) -> Report:
    """Return the report of a run folder. Raises ValueError if there is none, or if this version cannot read it."""
    folder, command = RunFolder(run), f"diffusion-train report {argument('run', run)}"
    if not folder.report.is_file():
        raise ValueError(f"run={run}: has no report.json; first write the report: {command}")
    try:
        return from_json(_read(folder))
    except ValueError as error:
        raise ValueError(
            f"run={run}: this version cannot read report.json ({error}); write the report again: {command}"
        ) from error


def add_marks(run: Path, report: Report, marks: Sequence[Mark]) -> None:
    """Add a reviewer's marks to the report of a run, and write it."""
    images = {sample.image for sample in report.samples}
    unknown = sum(mark.image not in images for mark in marks)
    print(f"{len(marks)} marks" + (f", {unknown} of them on images that this report does not show" if unknown else ""))
    show_report(run, replace(report, marks=merged(report.marks, marks)))


def show_report(run: Path, report: Report) -> None:
    """Write report.json and report.html, which shows the approvals of the run."""
    folder = RunFolder(run)
    content = json.dumps(to_json(report), indent=1, ensure_ascii=False, allow_nan=False)
    with atomic_file(folder.report) as file:
        file.write(content.encode("utf-8", "replace"))
    approvals = approvals_of(run, report.scale)
    with atomic_file(folder.report_page) as file:
        file.write(report_page(report, folder.report_images, approvals).encode("utf-8", "replace"))
    print(f"report: {folder.report_page}")
    if not approvals.valid:
        print(f"to approve it, save marks there, then run:\n  {approve_command(run)}")


def read_settings(settings: Mapping[str, Any]) -> Settings:
    plain = {name: settings[name] for name in Settings.__dataclass_fields__}
    listed = {name: read_prompts(settings[name]) for name in ("prompts", "general_prompts")}
    sources = None if settings["sources"] is None else list(settings["sources"])
    return Settings(**{**plain, **listed, "sources": sources, "scales": list(settings["scales"])})


def to_json(report: Report) -> dict[str, Any]:
    content: dict[str, Any] = _CONVERTER.unstructure(report)
    return content


def from_json(content: Mapping[str, Any]) -> Report:
    """Return the report that `to_json` gave `content` for. Raises ValueError for other content."""
    try:
        return _CONVERTER.structure(content, Report)
    except ClassValidationError as error:
        raise ValueError("; ".join(transform_error(error))) from error


def _converter() -> Converter:
    """Two keys are absent from report.json if they have no value; numbers stay what they are."""
    converter = Converter(forbid_extra_keys=True)
    converter.register_structure_hook(float, lambda value, _: value)
    for kind, key in ((Fidelity, "gap_closed"), (Rights, "fingerprint")):
        absent: Any = {key: override(omit_if_default=True)}
        converter.register_unstructure_hook(kind, make_dict_unstructure_fn(kind, converter, **absent))
    return converter


_CONVERTER = _converter()


def _read(folder: RunFolder) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(folder.report.read_text("utf-8"))
    return content
