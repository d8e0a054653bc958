"""Which sample stands at which position of an endless training run: a pure function with O(1) time and memory.

An epoch is a permutation of the samples. Blocks of neighbouring samples are permuted, then the samples inside each
window of `window` consecutive blocks, so that reading stays nearly sequential. Epochs follow one another without a gap.

Words: place = row of the global batch; lane = a group of neighbouring places that keeps to its own piece of each epoch;
slot = one of a lane's turns, x = 0, 1, 2, ...
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from diffusion_train.data.permutation import mix, permute
from diffusion_train.utils.rng import key_seed

I64 = NDArray[np.int64]


class Draw(NamedTuple):
    epoch: int
    sample: int


class Order:
    """`block_size` in samples, `window` in blocks."""

    def __init__(
        self, seed: int, fingerprint: str, num_samples: int, block_size: int = 64, window: int = 256, num_lanes: int = 1
    ) -> None:
        settings = {"num_samples": num_samples, "block_size": block_size, "window": window, "num_lanes": num_lanes}
        if wrong := [f"{name}={value}" for name, value in settings.items() if value < 1]:
            raise ValueError(f"{', '.join(wrong)}: at least 1 is needed")
        self.seed = seed
        self.fingerprint = fingerprint
        self.num_samples = num_samples
        self.block_size = min(block_size, num_samples)
        self.window = window
        self.num_lanes = num_lanes
        self.settings = f"block_size={block_size}, window={window}, num_lanes={num_lanes}"
        self._num_blocks = -(-num_samples // self.block_size)
        self._missing = self._num_blocks * self.block_size - num_samples  # what the last block lacks

    def indices(self, position: int, batch_size: int, places: Sequence[int] | None = None) -> list[Draw]:
        """(epoch, sample) of all or some places of the global batch that comes after `position` samples."""
        if batch_size % self.num_lanes or position % self.num_lanes:
            raise ValueError(
                f"batch_size={batch_size} or position={position} is not divisible by num_lanes={self.num_lanes}"
            )
        chosen = np.arange(batch_size) if places is None else np.asarray(places, np.int64)
        width = batch_size // self.num_lanes
        lane, offset = chosen // width, chosen % width
        slot = np.int64(position) // self.num_lanes + offset
        epoch = (slot * self.num_lanes + lane) // self.num_samples
        samples = np.empty_like(epoch)
        for number in np.unique(epoch):
            now = epoch == number
            samples[now] = self.sequence(int(number), self._position(int(number), lane[now], slot[now]))
        return list(map(Draw, epoch.tolist(), samples.tolist()))

    def sequence(self, epoch: int, position: I64) -> I64:
        """Samples at positions (m,) of an epoch's shuffled sequence."""
        key = np.uint64(key_seed("order", self.seed, self.fingerprint, epoch))
        short = self._short_slot(key)
        first, last = self._window_of(position, short)
        window_key = mix(key + (first // self.window).astype(np.uint64) + np.uint64(1))
        start = self._start(first, short)
        length = self._start(last, short) - start
        shuffled = start + _permute(position - start, length, window_key)
        slot = self._slot(shuffled, short)
        block = _permute(slot, np.full_like(slot, self._num_blocks), np.full(slot.shape, key))
        return block * self.block_size + shuffled - self._start(slot, short)

    def _position(self, epoch: int, lane: I64, slot: I64) -> I64:
        """Where in the epoch's sequence the slots of some lanes lie: lane after lane, each lane's piece contiguous."""
        begin, end = (self._slots_before(number) for number in (epoch, epoch + 1))
        piece = np.concatenate([[0], np.cumsum(end - begin)[:-1]])
        return piece[lane] + slot - begin[lane]

    def _slots_before(self, epoch: int) -> I64:
        """Slots each lane (num_lanes,) has had before an epoch: #{P < epoch * n with P mod num_lanes == lane}."""
        return (epoch * self.num_samples - np.arange(self.num_lanes) + self.num_lanes - 1) // self.num_lanes

    def _short_slot(self, key: np.uint64) -> int:
        """Where among the permuted blocks the last block stands, the one that may be shorter."""
        last, count = np.array([self._num_blocks - 1]), np.array([self._num_blocks])
        return int(_permute(last, count, np.array([key]), inverse=True)[0])

    def _start(self, slot: I64, short: int) -> I64:
        """The first position of a slot of the permuted blocks."""
        return slot * self.block_size - np.where(slot > short, self._missing, 0)

    def _slot(self, position: I64, short: int) -> I64:
        before = position < (short + 1) * self.block_size - self._missing
        return np.where(before, position, position + self._missing) // self.block_size

    def _window_of(self, position: I64, short: int) -> tuple[I64, I64]:
        """First and last (exclusive) slot of the window around each position."""
        first = self._slot(position, short) // self.window * self.window
        return first, np.minimum(first + self.window, self._num_blocks)


def _permute(index: I64, size: I64, key: NDArray[np.uint64], inverse: bool = False) -> I64:
    return permute(index.astype(np.uint64), size.astype(np.uint64), key, inverse).astype(np.int64)
