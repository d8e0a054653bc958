"""Batches read before their turn, so that no step waits for a network that is fast enough."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from diffusion_train.data.order.order import Draw, Window

if TYPE_CHECKING:
    from diffusion_train.data.dataset import Dataset

log = logging.getLogger(__name__)
_MOST_BEGUN = 8  # batches of a process
_PREFETCHED_A_TURN = 8  # batches: a start in the middle of a window catches up in a few turns
_PLANNED_DRAWS, _MOST_PLANNED = 4096, 64  # draws that are found at once, of so many batches at most
_WINDOWS = 2.5  # that a cache should hold: the one at hand, the next, and room for evictions


class Reading(NamedTuple):
    """A batch of which `num_bytes` are under way, and held until `finish` gives its samples, or raises."""

    num_bytes: int
    finish: Callable[[], list[dict[str, Any]]]


class Lookahead(NamedTuple):
    """How far a process looks: `num_bytes` of its next batches held in memory, the next `num_samples` of all cached."""

    num_bytes: int = 0
    num_samples: int = 0


class Plan:
    """The draws of batches that are asked for in rising order, each `stride` after the one before.

    `draws` gives those of several batches by their numbers, which takes little longer for several than for one.
    """

    def __init__(self, draws: Callable[[Sequence[int]], list[list[Draw]]]) -> None:
        self._draws = draws
        self._found: dict[int, list[Draw]] = {}
        self._count = 1  # batches found at once, as soon as it is known how large they are

    def __call__(self, number: int, stride: int) -> list[Draw]:
        if number not in self._found:
            numbers = range(number, number + stride * self._count, stride)
            self._found = dict(zip(numbers, self._draws(numbers), strict=True))
            self._count = min(max(_PLANNED_DRAWS // len(self._found[number]), 1), _MOST_PLANNED)
        return self._found[number]


class Ahead:
    """Reads batches by their number, and begins the next ones of this process meanwhile.

    `num_bytes` are exceeded by one batch at most. A batch holds the same samples whether it was begun before or not, and
    its faults show in its own turn.
    """

    def __init__(
        self,
        dataset: Dataset,
        draws: Callable[[Sequence[int]], list[list[Draw]]],
        lookahead: Lookahead,
        batch_size: int,
    ) -> None:
        self._dataset = dataset
        self._draws, self._prefetched_draws = Plan(draws), Plan(draws)
        self._num_bytes = lookahead.num_bytes
        self._num_batches = -(-lookahead.num_samples // batch_size)
        self._begun: dict[int, Reading] = {}
        self._is_of_use = False  # to begin a batch early: nothing is gained by it where files are in memory
        self._prefetched = 0  # batches below this number

    def read(self, number: int, stride: int) -> list[dict[str, Any]]:
        """`number + stride` is this process's next batch."""
        reading = self._begun.pop(number, None) or self._dataset.begin(self._draws(number, stride))
        self._is_of_use |= reading.num_bytes > 0
        if self._is_of_use:
            self._begin(range(number + stride, number + stride * (_MOST_BEGUN + 1), stride))
        self._prefetch(range(number + stride, number + self._num_batches + 1, stride))
        return reading.finish()

    def _begin(self, numbers: range) -> None:
        self._begun = {number: reading for number, reading in self._begun.items() if number in numbers}
        for number in numbers:
            if sum(reading.num_bytes for reading in self._begun.values()) >= self._num_bytes:
                return
            if number not in self._begun:
                self._begun[number] = self._dataset.begin(self._draws(number, numbers.step))

    def _prefetch(self, numbers: range) -> None:
        left = numbers[numbers.index(self._prefetched) :] if self._prefetched in numbers else numbers
        for number in left[:_PREFETCHED_A_TURN]:
            if not self._dataset.prefetch(self._prefetched_draws(number, numbers.step)):
                return
            self._prefetched = number + numbers.step


def for_cache(
    windows: Sequence[Window], mean_bytes: float, total: int, cache_bytes: int, block_bytes: int
) -> Lookahead:
    """One window ahead, or as much of it as the cache has room for; a cache that is too small is told of.

    A cache keeps whole blocks: what lies between the samples of a window is kept too, up to a block a sample.
    """
    num_samples = sum(window.num_samples for window in windows)
    held = sum(window.num_samples * min(mean_bytes * window.stretch, block_bytes + mean_bytes) for window in windows)
    wanted = max(int(min(_WINDOWS * held, total / 0.9)), 1)
    if wanted > cache_bytes:
        log.warning(
            "data.storage.cache_bytes=%d holds less than the order goes over at a time, %d windows of %d samples in all, "
            "and the ones after: blocks will be fetched again and again. Set data.storage.cache_bytes=%d, or a smaller "
            "data.window",
            *(cache_bytes, len(windows), num_samples, wanted),
        )
    return Lookahead(num_samples=max(int(num_samples * min(1.0, cache_bytes / wanted)), 1))
