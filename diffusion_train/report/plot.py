"""Layout of the page's drawings, which html/elements.html draws."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, product
from typing import NamedTuple

import torch

from diffusion_train.metric.colour import lab_to_srgb
from diffusion_train.report.facts import Swatch, SweepRow


class Box(NamedTuple):
    """A rectangle in pixels; y grows downwards."""

    left: float
    top: float
    right: float
    bottom: float

    def overlap(self, other: Box) -> float:
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.bottom, other.bottom) - max(self.top, other.top)
        return max(0.0, width) * max(0.0, height)


WIDTH, HEIGHT = 560, 320
AXES = Box(56, 18, WIDTH - 24, HEIGHT - 44)
_NAME_HEIGHT, _LETTER = 13, 7


class Stripe(NamedTuple):
    """One colour of a palette whose width is 1."""

    left: float
    fraction: float
    colour: str  # #rrggbb


class Point(NamedTuple):
    """A row of the sweep, its position, and where its name is written."""

    row: SweepRow
    x: float
    y: float
    name: Box


@dataclass(frozen=True)
class TradeOff:
    """Drawing of KID against drift, or against the strength or step if there is no base."""

    points: Sequence[Point]
    xs: Sequence[float]  # values of the points along the axis
    ys: Sequence[float]
    of_drift: bool
    width, height, axes = WIDTH, HEIGHT, AXES


def strip(swatches: Sequence[Swatch]) -> list[Stripe]:
    """Return the stripes of a palette, each as wide as the fraction of its colour."""
    ends = accumulate(swatch.fraction for swatch in swatches)
    colours = (lab_to_srgb(torch.tensor(swatch.lab)).tolist() for swatch in swatches)
    return [
        Stripe(end - swatch.fraction, swatch.fraction, "#" + "".join(f"{round(255 * value):02x}" for value in colour))
        for swatch, end, colour in zip(swatches, ends, colours, strict=True)
    ]


def trade_off(rows: Sequence[SweepRow]) -> TradeOff:
    """Return the drawing of a sweep, which has at least one row."""
    drifts = [row.drift for row in rows if row.drift is not None]
    of_drift = len(drifts) == len(rows)
    xs, ys = drifts if of_drift else [row.value for row in rows], [row.kid for row in rows]
    centres = list(zip(_spread(xs, AXES.left, AXES.right), _spread(ys, AXES.bottom, AXES.top), strict=True))
    names = _names([row.name for row in rows], centres)
    points = [Point(row, *centre, name) for row, centre, name in zip(rows, centres, names, strict=True)]
    return TradeOff(points, xs, ys, of_drift)


def _spread(values: Sequence[float], start: float, end: float) -> list[float]:
    """Return positions from `start` (low values) to `end`, with margins; in the middle if all values are equal."""
    low, high = min(values), max(values)
    fractions = [(value - low) / (high - low) if high > low else 0.5 for value in values]
    return [start + (0.06 + 0.88 * fraction) * (end - start) for fraction in fractions]


def _names(names: Sequence[str], centres: Sequence[tuple[float, float]]) -> list[Box]:
    """Return a box beside each point for its name, where it covers the least of points and other names."""
    area = Box(AXES.left, AXES.top - 14, WIDTH, AXES.bottom)
    points = [Box(x - 7, y - 7, x + 7, y + 7) for x, y in centres]
    placed: list[Box] = []
    for name, (x, y) in zip(names, centres, strict=True):
        width = _LETTER * len(name)
        corners = product((x + 10, x - 10 - width, x - width / 2), (y - 6, y - 21, y + 9, y - 34, y + 22))
        boxes = [Box(left, top, left + width, top + _NAME_HEIGHT) for left, top in corners]
        inside = [box for box in boxes if box.overlap(area) == box.overlap(box)]
        occupied = points + placed
        placed.append(min(inside or boxes, key=lambda box: sum(map(box.overlap, occupied)) + abs(box.top + 6 - y)))
    return placed
