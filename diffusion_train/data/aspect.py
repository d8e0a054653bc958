"""Shapes of one area and several aspects, and which of them an image is trained in."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

AREA_TOLERANCE = 1 / 16


def bucket_shapes(image_size: int, step: int, max_aspect: float) -> list[tuple[int, int]]:
    """(H, W), tallest first, in multiples of `step` up to an aspect of `max_aspect`, each with its mirror image.

    Their area is that of the square of `image_size` to within `AREA_TOLERANCE`. Raises ValueError.
    """
    if step < 1 or image_size < step or image_size % step:
        raise ValueError(f"data.image_size={image_size}: a multiple of the step of the shapes, {step}")
    if not max_aspect >= 1:
        raise ValueError(f"max_aspect={max_aspect}: at least 1")
    area, tall = image_size**2, []
    for long in range(image_size, int(image_size * max_aspect) + 1, step):
        short = max(1, round(area / long / step)) * step
        if long <= max_aspect * short and abs(long * short / area - 1) <= AREA_TOLERANCE:
            tall.append((long, short))
    wide = [(short, long) for long, short in tall if long != short]
    return [*reversed(tall), *wide]


def fit(original: tuple[ArrayLike, ArrayLike], shapes: Sequence[tuple[int, int]]) -> NDArray[np.int64]:
    """Which of `shapes` (H, W) loses least of each image (width, height) when it covers the shape and is cropped."""
    width, height = (np.asarray(side, np.float64) for side in original)
    rows, columns = np.array(shapes, np.float64).T
    order = np.argsort(columns / rows, kind="stable")
    rows, columns = rows[order], columns[order]
    # between two shapes the loss is equal at the geometric mean of their aspects; squares need no root, so that every
    # machine decides alike
    borders = (columns[1:] * columns[:-1]) / (rows[1:] * rows[:-1])
    return order[np.searchsorted(borders, (width * width) / (height * height))]


def within(original: tuple[ArrayLike, ArrayLike], max_aspect: float) -> NDArray[np.bool_]:
    """Which images (width, height) have a long side of at most `max_aspect` times the short one."""
    width, height = (np.asarray(side, np.float64) for side in original)
    return np.maximum(width, height) <= max_aspect * np.minimum(width, height)
