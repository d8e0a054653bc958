"""Image shapes of about the same area: by aspect ratio, and by optimizer step."""

from __future__ import annotations

import bisect
import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffusion_train.data.order.order import Draw, Shape


@dataclass(frozen=True)
class AspectRatios:
    """Shapes with sides divisible by `divisor` and an aspect ratio of at most `max_ratio`; 1 means squares of any size.

    Raises ValueError for settings below 1.
    """

    max_ratio: float = 1
    divisor: int = 64

    def __post_init__(self) -> None:
        if self.max_ratio < 1 or self.divisor < 1:
            raise ValueError(
                f"data.buckets.max_ratio={self.max_ratio}, data.buckets.divisor={self.divisor}: both must be at least "
                "1; max_ratio=1 gives only squares"
            )

    @functools.lru_cache(maxsize=64)  # noqa: B019  frozen and small
    def shapes(self, image_size: int) -> tuple[Shape, ...]:
        """Return the largest shapes with at most as many pixels as a square of `image_size`, from wide to high.

        Raises ValueError if `image_size` is not a multiple of `divisor`.
        """
        if self.max_ratio == 1:
            return ((image_size, image_size),)
        if image_size % self.divisor:
            raise ValueError(
                f"data.buckets: image size {image_size} must be a multiple of data.buckets.divisor={self.divisor}"
            )
        side = image_size // self.divisor
        halves = {(short, side**2 // short) for short in range(1, side + 1)}
        shapes = halves | {(long, short) for short, long in halves}
        return tuple(
            (height * self.divisor, width * self.divisor)
            for height, width in sorted(shapes)
            if max(height, width) <= self.max_ratio * min(height, width)
        )

    def rescaled(self, shape: Shape, image_size: int) -> Shape:
        """Return the shape at `image_size` whose aspect ratio is nearest to that of `shape`."""
        shapes = self.shapes(image_size)
        return shapes[int(nearest(np.array([shape[1]]), np.array([shape[0]]), shapes)[0])]


class Resolution:
    """Image size by optimizer step: one size, or (step, size) pairs, each valid from its step on.

    Raises ValueError for wrong steps or sizes.
    """

    def __init__(self, schedule: int | Sequence[tuple[int, int]], ratios: AspectRatios | None = None) -> None:
        pairs = [(0, schedule)] if isinstance(schedule, int) else [(int(step), int(size)) for step, size in schedule]
        self.steps, self.sizes = [step for step, _ in pairs], [size for _, size in pairs]
        self.ratios = ratios or AspectRatios()
        self.settings = f"resolution {schedule}"
        if self.steps[:1] != [0] or self.steps != sorted(set(self.steps)):
            raise ValueError(
                f"data.resolution={schedule}: the first step must be 0, and each step must be larger than the one "
                "before"
            )
        if min(self.sizes) < 1:
            raise ValueError(f"data.resolution={schedule}: sizes must be at least 1 pixel")
        for size in self.sizes:
            self.ratios.shapes(size)

    def __call__(self, step: int) -> int:
        return self.sizes[bisect.bisect_right(self.steps, step) - 1]

    def shaped(self, draws: Sequence[Draw], step: int) -> list[Draw]:
        """Return the draws of one batch with their shape at a step: their bucket's aspect ratio, or square."""
        shapes = {shape: self.ratios.rescaled(shape or (1, 1), self(step)) for shape in {draw.shape for draw in draws}}
        return [Draw(epoch, sample, shapes[shape]) for epoch, sample, shape in draws]


def nearest(width: NDArray[np.int64], height: NDArray[np.int64], shapes: Sequence[Shape]) -> NDArray[np.int64]:
    """Return the index (n,) of the shape nearest to each image's aspect ratio;
    `shapes` are sorted from wide to high.
    """
    ratios = np.log([tall / wide for tall, wide in shapes])
    return np.searchsorted((ratios[1:] + ratios[:-1]) / 2, np.log(height / width))
