"""Go on with a data set that grew or shrank, or is cut into other batches: first what is left of the pass at hand.

`last_epochs` says how far each sample had come, `carry_over` says it of the samples of the new data set, and `go_on`
puts the samples that have fallen behind before the further passes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from diffusion_train.data.order import I64, Draw, Draws, Window

NEVER = -1  # the last epoch of a sample that was not drawn
NEW = -2  # of a sample that was not there to be drawn


class BatchOrder(Protocol):
    """`Draws` or `Buckets`."""

    def indices(self, position: int, batch_size: int, places: Sequence[int] | None = None) -> list[Draw]: ...


def last_epochs(order: BatchOrder, earlier: I64, position: int, batch_size: int) -> I64:
    """The last epoch in which each sample (n,) was drawn in the first `position` draws; `earlier` where it was not.

    Walks back from `position` until each sample was met: through two passes of the slowest source or bucket at most.
    The last epoch stands for all before it, which holds where a source has many more samples than there are lanes.
    """
    newest, met = earlier.copy(), np.zeros(len(earlier), bool)
    for start in range(position - batch_size, -batch_size, -batch_size):
        draws = order.indices(max(start, 0), batch_size)
        epoch, sample = (np.array(column) for column in list(zip(*draws, strict=True))[:2])
        np.maximum.at(newest, sample, epoch)
        met[sample] = True
        if met.all():
            break
    return newest


def carry_over(newest: I64, old: NDArray[np.generic], new: NDArray[np.generic]) -> I64:
    """`newest` of the samples that a new data set has; `old` and `new` are names of samples, no name twice in either."""
    by_name = np.argsort(old)
    place = by_name[np.searchsorted(old, new, sorter=by_name).clip(max=len(old) - 1)]
    return np.where(old[place] == new, newest[place], NEW)


class Rest(Draws):
    """`parts` of passes begun earlier, each with its epoch, then `order` from pass `epoch` on."""

    def __init__(self, order: Draws, parts: Sequence[tuple[int, Draws]], epoch: int) -> None:
        self.order, self.parts, self.epoch = order, parts, epoch
        self.seed, self.num_lanes, self.settings = order.seed, order.num_lanes, f"{order.settings}, remapped"
        self.num_samples, self.epoch_size = order.num_samples, order.epoch_size
        self._ends = np.cumsum([draws.num_samples for _, draws in parts], dtype=np.int64)

    def at(self, position: I64) -> tuple[I64, I64]:
        epochs, samples = np.empty_like(position), np.empty_like(position)
        part = np.searchsorted(self._ends, position, side="right")
        for number in np.unique(part).tolist():
            its = part == number
            begun = position[its] - (self._ends[number - 1] if number else 0)
            if number < len(self.parts):
                epoch, draws = self.parts[number]
                epochs[its], samples[its] = epoch, draws.at(begun)[1]
            else:
                epochs[its], samples[its] = self.order.at(begun + self.epoch * self.order.num_samples)
        return epochs, samples

    def windows(self) -> list[Window]:
        return self.order.windows()
