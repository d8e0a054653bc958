"""The brand report of a run folder: measures the run, and writes report.json and report.html."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

from cattrs import BaseValidationError, Converter, transform_error
from cattrs.gen import make_dict_unstructure_fn, override
from omegaconf import DictConfig

from diffusion_train.approval import approvals_of, approve_command, reviewing
from diffusion_train.data.caption.prompt_list import read_prompts
from diffusion_train.metric.extractor import EfficientNetLite0
from diffusion_train.report.album import Album
from diffusion_train.report.build import build
from diffusion_train.report.drawing import Artist, Settings
from diffusion_train.report.facts import Fidelity, Report, Rights
from diffusion_train.report.marks import Mark, checked_marks, merged
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
    approvals_of(run, None)  # an unreadable file fails before hours of drawing
    artist = Artist(read_settings(settings), EfficientNetLite0().to(device), Album(folder.report_images))
    report = build(run, cfg, artist, device)
    with reviewing(run):  # reviewers may have added marks meanwhile
        marks, brand, owner = taken_over(folder)
        show_report(run, replace(report, marks=marks, brand=report.brand or brand, owner=report.owner or owner))


def taken_over(folder: RunFolder) -> tuple[Sequence[Mark], str | None, str | None]:
    """Return what a new report takes over from the older one: marks, brand and owner.

    If an older report cannot be read, it is renamed with a warning, so that its marks are not lost.
    """
    if not folder.report.is_file():
        return (), None, None
    try:
        older = _read(folder.report)
        marks = checked_marks(older.get("marks", []), "marks")
        brand, owner = (text if isinstance(text := older.get(key), str) else None for key in ("brand", "owner"))
    except (ValueError, TypeError) as error:
        aside = next(
            file
            for number in count(1)
            if not (file := folder.report.with_suffix(f".unreadable_{number}.json")).exists()
        )
        folder.report.rename(aside)
        warnings.warn(
            f"{folder.report}: cannot be read ({str(error)[:200]}), so the new report has none of its marks; the old "
            f"file is now {aside.name}",
            stacklevel=1,
        )
        return (), None, None
    return marks, brand, owner


def read_report(run: Path) -> Report:
    """Return the report of a run folder. Raises ValueError if there is none, or if this version cannot read it."""
    folder, command = RunFolder(run), f"diffusion-train report {argument('run', run)}"
    if not folder.report.is_file():
        raise ValueError(f"run={run}: has no report.json; first write the report: {command}")
    try:
        return from_json(_read(folder.report))
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
    if report.changed:
        print(f"it cannot be approved, because it is not of the run's own model: changed {', '.join(report.changed)}")
    elif not approvals.valid:
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
    except BaseValidationError as error:
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


def _read(file: Path) -> dict[str, Any]:
    """Raises ValueError if a report.json is damaged."""
    try:
        content = json.loads(file.read_text("utf-8"))
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(content, dict):
        raise ValueError("must be a mapping")  # noqa: TRY004
    return content
