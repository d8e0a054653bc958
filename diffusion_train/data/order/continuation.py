"""Continue with a data set that has grown or shrunk, or with other batches: the rest of the current pass comes first.

`last_epochs` returns the last epoch of each sample, `carry_over` that of the samples of the new data set, which
`indices_of` finds in the old one, and `Remainder` puts the samples that are behind before further passes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from diffusion_train.data.order.buckets import Buckets
from diffusion_train.data.order.order import I64, Draws, Window, grouped
from diffusion_train.data.order.permutation import mix

NEVER = -1  # the last epoch of a sample that was not drawn
NEW = -2  # of a sample that the earlier data set did not have
Names = NDArray[np.uint64]
_CHUNK = 1 << 18  # draws processed at once
_CHUNKS = 16  # or this many parts of a pass


def last_epochs(order: Draws | Buckets, earlier: I64, position: int, batch_size: int) -> I64:
    """Return the last epoch of each sample (n,) within the first `position` draws; `earlier` if it was not drawn.

    Goes back from `position` until each sample has occurred, through at most two passes of the slowest source. The last
    epoch implies all earlier ones, which is true if a source has many more samples than there are lanes.
    """
    newest, met = earlier.copy(), np.zeros(len(earlier), bool)
    chunk = max(_CHUNK, len(earlier) // _CHUNKS)
    expected = 0
    for draws, count in order.walked(position, batch_size):
        expected += draws.num_samples
        for end in range(count, 0, -chunk):
            epoch, sample = draws.at(np.arange(max(0, end - chunk), end))
            np.maximum.at(newest, sample, epoch)
            met[sample] = True
            if np.count_nonzero(met) == expected:
                break
        else:
            expected = int(np.count_nonzero(met))
    return newest


def indices_of(new: Names, old: Names) -> I64:
    """Return the index of each `new` sample (n,) among the `old` ones, by their ids; -1 if it is not one of them.

    If several samples have the same id, the first new one is the first old one, and so on.
    """
    new, old = numbered(new), numbered(old)
    in_turn, held = np.argsort(new), np.argsort(old)
    wanted, names = new[in_turn], old[held]  # both sorted by id, so that the search stays in the processor's cache
    found = np.searchsorted(names, wanted).clip(max=len(old) - 1)
    indices = np.full(len(new), -1)
    if len(old):
        indices[in_turn] = np.where(names[found] == wanted, held[found], -1)
    return indices


def carry_over(newest: I64, indices: I64) -> I64:
    """Return `newest` for the samples of another data set, which have these indices in the one before."""
    return np.append(newest, NEW)[indices]  # index -1 is the last element


def numbered(names: Names) -> Names:
    """Return ids (n,) in which the second, third, ... sample of the same id gets another id."""
    order = np.argsort(names, kind="stable")
    ranked = names[order]
    first = np.flatnonzero(np.concatenate([[True], ranked[1:] != ranked[:-1]])[: len(names)])
    rank = np.arange(len(names)) - np.repeat(first, np.diff(first, append=len(names)))
    out = np.empty_like(names)
    out[order] = ranked ^ mix(rank.astype(np.uint64))  # mix(0) is 0
    return out


class Remainder(Draws):
    """The remaining `parts` of passes that were begun earlier, each with its epoch, then `order` from `epoch` on."""

    def __init__(self, order: Draws, parts: Sequence[tuple[int, Draws]], epoch: int) -> None:
        self.order, self.parts, self.epoch = order, parts, epoch
        self.seed, self.num_lanes = order.seed, order.num_lanes
        self.num_samples, self.epoch_size = order.num_samples, order.epoch_size
        self._ends = np.cumsum([draws.num_samples for _, draws in parts], dtype=np.int64)

    def at(self, position: I64) -> tuple[I64, I64]:
        epochs, samples = np.empty_like(position), np.empty_like(position)
        part = np.searchsorted(self._ends, position, side="right")
        for number, its in grouped(part):
            begun = position[its] - (self._ends[number - 1] if number else 0)
            if number < len(self.parts):
                epoch, draws = self.parts[number]
                epochs[its], samples[its] = epoch, draws.at(begun)[1]
            else:
                epochs[its], samples[its] = self.order.at(begun + self.epoch * self.order.num_samples)
        return epochs, samples

    def windows(self) -> list[Window]:
        return self.order.windows()
