"""Go on with a data set that grew or shrank, or is cut into other batches: first what is left of the pass at hand.

`last_epochs` says how far each sample had come, `carry_over` says it of the samples of the new data set, which
`indices_of` finds in the old one, and `Remainder` puts those that have fallen behind before the further passes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from diffusion_train.data.order.buckets import Buckets
from diffusion_train.data.order.order import I64, Draws, Window, grouped
from diffusion_train.data.order.permutation import mix

NEVER = -1  # the last epoch of a sample that was not drawn
NEW = -2  # of a sample that was not there to be drawn
Names = NDArray[np.uint64]
_CHUNK = 1 << 18  # draws walked at once
_CHUNKS = 16  # or so many parts of a pass


def last_epochs(order: Draws | Buckets, earlier: I64, position: int, batch_size: int) -> I64:
    """The last epoch in which each sample (n,) was drawn in the first `position` draws; `earlier` where it was not.

    Walks back from `position` until each sample was met: through two passes of the slowest source at most.
    The last epoch stands for all before it, which holds where a source has many more samples than there are lanes.
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
    """Where among the `old` samples each of the `new` ones was, by their names; -1 where it was not.

    Of samples with one name the first of the new ones was the first of the old ones, and so forth.
    """
    new, old = numbered(new), numbered(old)
    in_turn, held = np.argsort(new), np.argsort(old)
    wanted, names = new[in_turn], old[held]  # both in the order of names: the search keeps to the processor's cache
    found = np.searchsorted(names, wanted).clip(max=len(old) - 1)
    indices = np.full(len(new), -1)
    if len(old):
        indices[in_turn] = np.where(names[found] == wanted, held[found], -1)
    return indices


def carry_over(newest: I64, indices: I64) -> I64:
    """`newest` of the samples of another data set, which had these indices in the one before."""
    return np.append(newest, NEW)[indices]  # -1 is the last


def numbered(names: Names) -> Names:
    """Other names for the second, third, ... of the same name."""
    order = np.argsort(names, kind="stable")
    ranked = names[order]
    first = np.flatnonzero(np.concatenate([[True], ranked[1:] != ranked[:-1]])[: len(names)])
    rank = np.arange(len(names)) - np.repeat(first, np.diff(first, append=len(names)))
    out = np.empty_like(names)
    out[order] = ranked ^ mix(rank.astype(np.uint64))  # mix(0) is 0
    return out


class Remainder(Draws):
    """`parts` of passes begun earlier, each with its epoch, then `order` from pass `epoch` on."""

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
