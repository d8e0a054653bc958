"""Comparison of a run's strengths and steps: which are undominated, and which one to choose."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

GOALS = ("kid", "drift", "flagged")  # figures of a row that are better low
SURPRISING = 0.05  # flags whose `chance` is lower are more than chance explains


@dataclass(frozen=True)
class Sweep:
    """Strengths and checkpoints of the run, and the figures by which they are compared."""

    rows: Sequence[SweepRow]
    goals: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class SweepRow:
    """Figures of one strength (`axis` "scale") or checkpoint ("step")."""

    axis: str
    value: float
    name: str
    kid: float
    kid_error: float | None
    likeness: float
    colours: float
    drift: float | None
    flagged: int
    samples: int
    chance: float
    undominated: bool = False
    chosen: bool = False


def undominated(rows: Sequence[SweepRow]) -> list[bool]:
    """Return for each row whether no other is as good in every goal and better in one.

    Drift does not count if the rows have none.
    """
    points = [[goal for goal in (row.kid, row.drift, row.flagged) if goal is not None] for row in rows]
    return [not any(_better(other, point) for other in points) for point in points]


def choose(rows: Sequence[SweepRow]) -> int | None:
    """Return the index of the undominated row to choose, or None if there are no rows.

    Only rows with no more flags than chance explains are considered, or those with the fewest flags if there are none.
    Of these the row nearest to both the best KID and the least drift is chosen, each scaled to [0, 1] over all rows.
    """
    candidates = [index for index, good in enumerate(undominated(rows)) if good]
    if not candidates:
        return None
    quiet = [index for index in candidates if rows[index].chance >= SURPRISING]
    fewest = min(rows[index].flagged for index in candidates)
    candidates = quiet or [index for index in candidates if rows[index].flagged == fewest]
    kids, drifts = _scaled([row.kid for row in rows]), _scaled([row.drift for row in rows])
    return min(candidates, key=lambda index: math.hypot(kids[index], drifts[index]))


def _better(one: Sequence[float], other: Sequence[float]) -> bool:
    pairs = list(zip(one, other, strict=True))
    return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)


def _scaled(values: Sequence[float | None]) -> list[float]:
    known = [value for value in values if value is not None]
    if len(known) < len(values) or not known or max(known) == min(known):
        return [0.0] * len(values)
    return [(value - min(known)) / (max(known) - min(known)) for value in known]
