"""The report as one self-contained HTML page, which loads nothing and runs a single script."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from importlib import resources
from pathlib import Path

from markupsafe import Markup

from diffusion_train.page import page
from diffusion_train.report.album import embedded
from diffusion_train.report.facts import CopyingFacts, Report
from diffusion_train.report.marks import FORMAT
from diffusion_train.report.plot import strip, trade_off
from diffusion_train.report.rights_table import asked_for
from diffusion_train.report.sweep import SURPRISING

_SERIOUS = {"non-commercial", "no-derivatives", "unknown", "unread"}


@dataclass(frozen=True)
class Copied:
    """Samples that are flagged, over all kinds of prompts; `surprising` if one kind has more than chance explains."""

    flagged: int
    samples: int
    expected: float
    surprising: bool


def report_page(report: Report, pictures: Path) -> str:
    """Return the HTML of a report whose pictures are the files <name>.png of the folder `pictures`."""
    drift, asked = report.drift, asked_for(report.rights)
    files = resources.files(__package__) / "html"
    return page(
        __package__,
        "html/report.html",
        report=report,
        format=FORMAT,
        copied=copied(report.copying),
        ratio_to_seeds=drift.changed / drift.seeds if drift and drift.seeds else None,
        licenses=list(dict.fromkeys(one.name for entry in report.rights for one in entry.licenses)),
        asked=asked,
        serious=not _SERIOUS.isdisjoint(asked),
        palettes={name: strip(swatches) for name, swatches in report.fidelity.palettes.items()},
        plot=trade_off(report.sweep.rows) if report.sweep else None,
        find=partial(embedded, pictures),
        style=Markup((files / "page.css").read_text("utf-8")),
        script=Markup((files / "page.js").read_text("utf-8")),
        sha256=lambda content: base64.b64encode(hashlib.sha256(content.encode()).digest()).decode(),
    )


def copied(copying: Mapping[str, CopyingFacts]) -> Copied:
    kinds = [rate for kind, rate in copying.items() if kind != "base"]
    flagged = sum(rate.flagged for rate in kinds)
    return Copied(
        flagged=flagged,
        samples=sum(rate.samples for rate in kinds),
        expected=sum(rate.expected for rate in kinds),
        surprising=flagged > 0 and min(rate.chance for rate in kinds) < SURPRISING / len(kinds),
    )
