"""The report as one self-contained HTML page, which loads nothing and runs a single script."""

from __future__ import annotations

import base64
import hashlib
from calendar import month_name
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from importlib import resources
from pathlib import Path

from markupsafe import Markup

from diffusion_train.approval import Approvals
from diffusion_train.page import page
from diffusion_train.report.album import embedded
from diffusion_train.report.facts import CopyingFacts, Fidelity, Report
from diffusion_train.report.marks import FORMAT
from diffusion_train.report.measure import RESOLUTION
from diffusion_train.report.plot import strip, trade_off
from diffusion_train.report.rights_table import affected, asked_for
from diffusion_train.report.sweep import SURPRISING
from diffusion_train.rights.license import MEANING

_SERIOUS = set(MEANING) - {"share-alike", "use-restricted"}  # terms under which the images may not be used at all


@dataclass(frozen=True)
class Copied:
    """Samples that are flagged, over all kinds of prompts; `surprising` if one kind has more than chance explains."""

    flagged: int
    samples: int
    expected: float
    surprising: bool


@dataclass(frozen=True)
class Closing:
    """The fraction of the way from the base to real images of the brand, and the ends of its 95 % interval."""

    fraction: float
    low: float
    high: float


def report_page(report: Report, pictures: Path, approvals: Approvals) -> str:
    """Return the HTML of a report whose pictures are the files <name>.png of the folder `pictures`."""
    drift, asked = report.drift, asked_for(report.rights)
    files = resources.files(__package__) / "html"
    return page(
        __package__,
        "html/report.html",
        report=report,
        format=FORMAT,
        approvals=approvals,
        date=date,
        closing=closing(report.fidelity),
        look_the_same=_look_the_same(report.fidelity),
        copied=copied(report.copying),
        ratio_to_seeds=drift.changed / drift.seeds if drift and drift.seeds else None,
        licenses=list(dict.fromkeys(one.name for entry in report.rights for one in entry.licenses)),
        asked=asked,
        affected=affected,
        serious=not _SERIOUS.isdisjoint(asked),
        palettes={name: strip(swatches) for name, swatches in report.fidelity.palettes.items()},
        plot=trade_off(report.sweep.rows) if report.sweep else None,
        find=partial(embedded, pictures),
        style=Markup((files / "page.css").read_text("utf-8")),
        script=Markup((files / "page.js").read_text("utf-8")),
        sha256=lambda content: base64.b64encode(hashlib.sha256(content.encode()).digest()).decode(),
    )


def date(text: str) -> str:
    """Return a date in ISO 8601 in words, such as 1 December 2026; other texts unchanged."""
    try:
        day = datetime.fromisoformat(text)
    except ValueError:
        return text
    return f"{day.day} {month_name[day.month]} {day.year}"


def closing(fidelity: Fidelity) -> Closing | None:
    """Return how much of the gap is closed; None without a gap, or if the interval does not say that it is closed."""
    change, closed = fidelity.change, fidelity.gap_closed and fidelity.gap_closed.kid
    if not (change and closed and change.error is not None and change.direction == "closer"):
        return None
    spread = closed * change.error / -change.value
    return Closing(closed, closed - spread, closed + spread)


def _look_the_same(fidelity: Fidelity) -> bool:
    return fidelity.changed is not None and fidelity.changed < RESOLUTION["features"]


def copied(copying: Mapping[str, CopyingFacts]) -> Copied:
    kinds = [rate for kind, rate in copying.items() if kind != "base"]
    flagged = sum(rate.flagged for rate in kinds)
    return Copied(
        flagged=flagged,
        samples=sum(rate.samples for rate in kinds),
        expected=sum(rate.expected for rate in kinds),
        surprising=flagged > 0 and min(rate.chance for rate in kinds) < SURPRISING / len(kinds),
    )
