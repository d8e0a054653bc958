"""Layout of the page's drawings, which html/elements.html draws."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, product
from math import ceil, log10
from typing import NamedTuple

import torch

from diffusion_train.metric.colour import lab_to_srgb
from diffusion_train.report.facts import Swatch
from diffusion_train.report.sweep import SweepRow


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
_LEAST_DRIFT = 0.05  # that an axis of drift spans; smaller changes are not visible


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


class Axis(NamedTuple):
    """The values at both ends of an axis, and the digits after the point that tell them apart."""

    low: float
    high: float
    digits: int

    @classmethod
    def over(cls, values: Sequence[float], least: float = 0.0) -> Axis:
        """Return the axis of some values; it spans at least `least`,
        so that differences that mean nothing look small.
        """
        low, high = min(values), max(values)
        short = max(0.0, least - (high - low)) / 2
        low, high = (low - short, high + short) if low < 0 or low > short else (0.0, max(high, least))
        whole = all(float(value).is_integer() for value in values) and not least
        return cls(low, high, 0 if whole or low == high else max(2, ceil(-log10(high - low))))

    def position(self, value: float, start: float, end: float) -> float:
        """Return the position from `start` (low) to `end`, with margins; the middle if both ends are equal."""
        fraction = (value - self.low) / (self.high - self.low) if self.high > self.low else 0.5
        return start + (0.06 + 0.88 * fraction) * (end - start)


@dataclass(frozen=True)
class TradeOff:
    """Drawing of KID against drift, or against the strength or step if there is no base."""

    points: Sequence[Point]
    x: Axis
    y: Axis
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
    x = Axis.over(xs, _LEAST_DRIFT if of_drift else 0)
    y = Axis.over(ys, max(row.kid_error or 0 for row in rows))
    centres = [
        (x.position(one, AXES.left, AXES.right), y.position(other, AXES.bottom, AXES.top))
        for one, other in zip(xs, ys, strict=True)
    ]
    names = _names([row.name for row in rows], centres)
    points = [Point(row, *centre, name) for row, centre, name in zip(rows, centres, names, strict=True)]
    return TradeOff(points, x, y, of_drift)


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
