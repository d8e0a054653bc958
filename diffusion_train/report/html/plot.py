"""Drawings as inline SVG; colours come from the page's style sheet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from diffusion_train.metric.colour import lab_to_srgb
from diffusion_train.report.html.elements import number, text

_WIDTH, _HEIGHT = 560, 320
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 24, 18, 44


def strip(swatches: Sequence[dict[str, Any]], label: str) -> str:
    """A palette: each colour as wide as its share."""
    parts, left = [], 0.0
    for swatch in swatches:
        red, green, blue = (round(255 * value) for value in lab_to_srgb(torch.tensor(swatch["lab"])).tolist())
        width = 600 * swatch["share"]
        title = f"<title>#{red:02x}{green:02x}{blue:02x}, {round(100 * swatch['share'])} %</title>"
        parts.append(
            f'<rect x="{left:.1f}" y="0" width="{width:.1f}" height="28" fill="#{red:02x}{green:02x}{blue:02x}">{title}</rect>'
        )
        left += width
    return f'<svg class="strip" viewBox="0 0 600 28" preserveAspectRatio="none" role="img" aria-label="{text(label)}">{"".join(parts)}</svg>'


def trade_off(rows: Sequence[dict[str, Any]]) -> str:
    """KID against drift (against the strength or step where there is no base), a line for each axis of the sweep."""
    drifts = all(row["drift"] is not None for row in rows)
    xs = [float(row["drift"] if drifts else row["value"]) for row in rows]
    ys = [float(row["kid"]) for row in rows]
    x_of, y_of = _scale(xs, _LEFT, _WIDTH - _RIGHT), _scale(ys, _HEIGHT - _BOTTOM, _TOP)
    parts = [_axes(xs, ys, "change of general samples" if drifts else "step")]
    for axis in dict.fromkeys(row["axis"] for row in rows):
        places = [place for place, row in enumerate(rows) if row["axis"] == axis]
        line = " ".join(f"{x_of(xs[place]):.1f},{y_of(ys[place]):.1f}" for place in places)
        parts.append(f'<polyline class="line {axis}" points="{line}"/>')
    points = [(x_of(x), y_of(y)) for x, y in zip(xs, ys, strict=True)]
    for row, (x, y), name in zip(rows, points, _names(rows, points), strict=True):
        ring = f'<circle class="ring" cx="{x:.1f}" cy="{y:.1f}" r="10"/>' if row["chosen"] else ""
        kind = f"dot {row['axis']}" + ("" if row["undominated"] else " beaten")
        parts.append(f'{ring}<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="4.5"/>{name}')
    label = "Closeness to the brand against change elsewhere"
    return f'<svg class="plot" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{label}">{"".join(parts)}</svg>'


def _names(rows: Sequence[dict[str, Any]], points: Sequence[tuple[float, float]]) -> list[str]:
    """Beside each point, where the fewest points and other names are covered."""
    taken = [(x - 7, y - 7, x + 7, y + 7) for x, y in points]
    names = []
    for row, (x, y) in zip(rows, points, strict=True):
        width = 7.0 * len(row["name"])
        lefts = (x + 10, x - 10 - width, x - width / 2)
        boxes = [
            (left, top, left + width, top + 13) for left in lefts for top in (y - 6, y - 21, y + 9, y - 34, y + 22)
        ]
        inside = [
            box
            for box in boxes
            if box[0] > _LEFT and box[2] < _WIDTH and box[1] > _TOP - 14 and box[3] < _HEIGHT - _BOTTOM
        ]
        box = min(inside or boxes, key=lambda box: sum(_overlap(box, other) for other in taken) + abs(box[1] + 6 - y))
        taken.append(box)
        names.append(f'<text x="{box[0]:.1f}" y="{box[3] - 3:.1f}">{text(row["name"])}</text>')
    return names


def _overlap(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(0.0, width) * max(0.0, height)


def _axes(xs: Sequence[float], ys: Sequence[float], x_title: str) -> str:
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    ends = [
        (f'x="{_LEFT}" y="{bottom + 16}" text-anchor="start"', min(xs)),
        (f'x="{right}" y="{bottom + 16}" text-anchor="end"', max(xs)),
        (f'x="{_LEFT - 8}" y="{bottom}" text-anchor="end"', min(ys)),
        (f'x="{_LEFT - 8}" y="{_TOP + 10}" text-anchor="end"', max(ys)),
    ]
    numbers = "".join(
        f'<text class="tick" {place}>{number(value, 0 if value >= 100 else 2)}</text>' for place, value in ends
    )
    return (
        f'<path class="axis" d="M{_LEFT} {_TOP}V{bottom}H{right}"/>{numbers}'
        f'<text class="title" x="{(_LEFT + right) / 2}" y="{_HEIGHT - 8}" text-anchor="middle">{text(x_title)} →</text>'
        f'<text class="title" transform="translate(16 {(_TOP + bottom) / 2}) rotate(-90)" text-anchor="middle">'
        "← nearer to the brand (KID)</text>"
    )


def _scale(values: Sequence[float], start: float, end: float) -> Any:
    low, high = min(values), max(values)
    pad = (end - start) * 0.06
    return lambda value: start + pad + (end - start - 2 * pad) * ((value - low) / (high - low) if high > low else 0.5)
