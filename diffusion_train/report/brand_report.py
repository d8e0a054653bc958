"""The brand report of a run folder: measures the run, and writes report.json and report.html."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import DictConfig

from diffusion_train.data.caption.prompt_list import read_prompts
from diffusion_train.metric.extractor import EfficientNetLite0
from diffusion_train.report import facts
from diffusion_train.report.album import Album
from diffusion_train.report.build import build
from diffusion_train.report.drawing import Artist, Settings
from diffusion_train.report.marks import Mark, merged, read_marks
from diffusion_train.report.report_page import report_page
from diffusion_train.run_folder import RunFolder
from diffusion_train.utils.files import atomic_file
from diffusion_train.utils.tensor import best_device

T = TypeVar("T")
_OPTIONAL_KEYS = ("gap_closed", "fingerprint")  # keys that report.json leaves out if there is no value


def write_report(run: Path, cfg: DictConfig, settings: Mapping[str, Any]) -> None:
    """Measure the run of config `cfg` and write its report, with the marks of an older report if there is one.

    `settings` are those of conf/report.yaml.
    """
    folder, device = RunFolder(run), best_device()
    artist = Artist(read_settings(settings), EfficientNetLite0().to(device), Album(folder.report_images))
    report = build(run, cfg, artist, device)
    marks = [Mark(**mark) for mark in _read(folder)["marks"]] if folder.report.is_file() else []
    _write(folder, replace(report, marks=marks))


def add_marks(run: Path, file: Path) -> None:
    """Add a reviewer's marks to the report of a run. Raises ValueError if there is no report that can be read."""
    folder = RunFolder(run)
    if not folder.report.is_file():
        raise ValueError(f"run={run}: has no report.json to add marks to; leave marks out to make one")
    try:
        report = from_json(_read(folder))
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"run={run}: this version cannot read report.json ({error}); leave marks out to write it again"
        ) from error
    marks = read_marks(file)
    images = {sample.image for sample in report.samples}
    unknown = sum(mark.image not in images for mark in marks)
    print(f"{len(marks)} marks" + (f", {unknown} of them on images that this report does not show" if unknown else ""))
    _write(folder, replace(report, marks=merged(report.marks, marks)))


def read_settings(settings: Mapping[str, Any]) -> Settings:
    plain = {name: settings[name] for name in Settings.__dataclass_fields__}
    listed = {name: read_prompts(settings[name]) for name in ("prompts", "general_prompts")}
    sources = None if settings["sources"] is None else list(settings["sources"])
    return Settings(**{**plain, **listed, "sources": sources, "scales": list(settings["scales"])})


def to_json(report: facts.Report) -> dict[str, Any]:
    return asdict(report, dict_factory=_without_missing)


def from_json(content: Mapping[str, Any]) -> facts.Report:
    """Return the report that `to_json` gave `content` for. Raises KeyError or TypeError for other content."""
    coverage, sweep = content["coverage"], content["sweep"]
    bands, thin = _each(facts.Band, coverage["bands"]), _each(facts.ThinWord, coverage["thin"])
    parts = {
        "data": facts.ImageCounts(**content["data"]),
        "prompts": _each_value(facts.PromptSource, content["prompts"]),
        "fidelity": _fidelity(content["fidelity"]),
        "drift": _optional(facts.Drift, content["drift"]),
        "copying": _each_value(facts.CopyingFacts, content["copying"]),
        "coverage": facts.WordCoverage(**{**coverage, "bands": bands, "thin": thin}),
        "samples": [facts.Sample(**{**one, "copying": _copying(one["copying"])}) for one in content["samples"]],
        "sweep": facts.Sweep(_each(facts.SweepRow, sweep["rows"]), sweep["goals"]) if sweep else None,
        "rights": [
            facts.Rights(**{**one, "licenses": _each(facts.LicenseCount, one["licenses"])}) for one in content["rights"]
        ],
        "marks": _each(Mark, content["marks"]),
    }
    return facts.Report(**{**content, **parts})


def _read(folder: RunFolder) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(folder.report.read_text("utf-8"))
    return content


def _write(folder: RunFolder, report: facts.Report) -> None:
    content = json.dumps(to_json(report), indent=1, ensure_ascii=False, allow_nan=False)
    with atomic_file(folder.report) as file:
        file.write(content.encode("utf-8", "replace"))
    with atomic_file(folder.report_page) as file:
        file.write(report_page(report, folder.report_images).encode("utf-8", "replace"))
    print(f"report: {folder.report_page}")


def _fidelity(content: dict[str, Any]) -> facts.Fidelity:
    parts = {
        **{key: _optional(facts.Closeness, content[key]) for key in ("base", "run", "floor")},
        "gap_closed": _optional(facts.GapClosed, content.get("gap_closed")),
        "palettes": {name: _each(facts.Swatch, swatches) for name, swatches in content["palettes"].items()},
    }
    return facts.Fidelity(**{**content, **parts})


def _copying(content: dict[str, Any]) -> facts.SampleCopying:
    pairs = {name: facts.NearestImage(**content[name]) for name in ("hash", "features", "thumbnail")}
    return facts.SampleCopying(**{**content, **pairs})


def _optional(kind: type[T], content: Mapping[str, Any] | None) -> T | None:
    return kind(**content) if content else None


def _each(kind: type[T], items: Iterable[Mapping[str, Any]]) -> list[T]:
    return [kind(**item) for item in items]


def _each_value(kind: type[T], items: Mapping[str, Mapping[str, Any]]) -> dict[str, T]:
    return {name: kind(**item) for name, item in items.items()}


def _without_missing(items: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    return {name: value for name, value in items if value is not None or name not in _OPTIONAL_KEYS}
