"""The draws of batches: which samples a batch contains, and in which shape. Batches are numbered from the start."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from diffusion_train.data.order.buckets import Buckets
from diffusion_train.data.order.order import Draw, Draws
from diffusion_train.data.order.resolution import Resolution

_PLANNED_DRAWS, _MOST_PLANNED = 4096, 64  # draws computed together, and the largest number of batches


@dataclass(frozen=True)
class RankBatches:
    """The rows `rows` (those of one process) of global batches. Batch 0 is that of `start_step`, at `start_position`.

    With `num_repeated_batches` only the first batches of the order are used, repeatedly.
    """

    order: Draws | Buckets
    resolution: Resolution | None
    batch_size: int
    rows: Sequence[int]
    start_step: int = 0
    start_position: int = 0
    num_repeated_batches: int | None = None

    def __call__(self, numbers: Sequence[int]) -> list[list[Draw]]:
        repeated = (self.num_repeated_batches or sys.maxsize) * self.batch_size
        positions = [(self.start_position + number * self.batch_size) % repeated for number in numbers]
        batches = self.order.batches(positions, self.batch_size, self.rows)
        if not self.resolution:
            return batches
        steps = (self.start_step + number for number in numbers)
        return [self.resolution.shaped(draws, step) for draws, step in zip(batches, steps, strict=True)]


class Plan:
    """Computes the draws of several batches at once, for callers that ask for every `stride`-th batch in order.

    `draws` returns those of several batches, which takes little longer than for one.
    """

    def __init__(self, draws: Callable[[Sequence[int]], list[list[Draw]]]) -> None:
        self._draws = draws
        self._planned: dict[int, list[Draw]] = {}
        self._count = 1  # batches computed together; chosen when the size of a batch is known

    def __call__(self, number: int, stride: int) -> list[Draw]:
        if number not in self._planned:
            numbers = range(number, number + stride * self._count, stride)
            self._planned = dict(zip(numbers, self._draws(numbers), strict=True))
            self._count = min(max(_PLANNED_DRAWS // len(self._planned[number]), 1), _MOST_PLANNED)
        return self._planned[number]
