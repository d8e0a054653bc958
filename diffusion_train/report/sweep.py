"""Strengths and steps of a run compared: which lose nothing to another one, and which one to take."""

from __future__ import annotations

import math
from collections.abc import Sequence

from diffusion_train.report.facts import SweepRow

GOALS = ("kid", "drift", "flagged")  # all better low
SURPRISING = 0.05  # so many flags would be seen less often than this by chance


def undominated(rows: Sequence[SweepRow]) -> list[bool]:
    """Return for each row whether no other is as good in every goal and better in one.

    Drift does not count if the rows have none.
    """
    points = [[goal for goal in (row.kid, row.drift, row.flagged) if goal is not None] for row in rows]
    return [not any(_better(other, point) for other in points) for point in points]


def choose(rows: Sequence[SweepRow]) -> int | None:
    """Of the undominated rows the place of the one to take; None where there are no rows.

    First those whose samples are flagged no more often than chance does (else those with the fewest); of them the one
    nearest to the best KID and the least drift at once, each scaled to [0, 1] over all rows.
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
