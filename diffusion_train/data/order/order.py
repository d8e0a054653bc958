"""The sample at each position of an endless training run: a pure function with O(1) time and memory.

An epoch is a permutation of the samples. Blocks of neighbouring samples are permuted, then the samples within each
window of `window` consecutive blocks, so that reading stays nearly sequential. Epochs follow one another without a gap.

Terms: a row is one of the global batch; a lane is a group of neighbouring rows that reads its own part of each epoch; a
slot is one of a lane's draws, numbered 0, 1, 2, ...
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import lru_cache, partial
from itertools import repeat
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from diffusion_train.data.order.permutation import mix, permute
from diffusion_train.utils.rng import key_seed

I64 = NDArray[np.int64]
Shape = tuple[int, int]  # (height, width) in pixels


class Draw(NamedTuple):
    """One draw of a sample in an epoch. `shape` is that of its image, None for the default shape of the data set."""

    epoch: int
    sample: int
    shape: Shape | None = None


_draw = partial(tuple.__new__, Draw)  # like `Draw._make`, but faster


class Window(NamedTuple):
    """`num_samples` are shuffled together; they are spread over `stretch` times as many samples of the data set."""

    num_samples: int
    stretch: float = 1.0


class Draws(ABC):
    """An endless sequence of draws with random access by position; position mod `num_lanes` is the lane.

    `epoch_size` is the number of draws of an epoch, in which each sample occurs as often as intended on average.
    """

    seed: int
    num_samples: int
    epoch_size: Fraction | int
    num_lanes: int

    @abstractmethod
    def at(self, position: I64) -> tuple[I64, I64]:
        """Return (epoch, sample) of positions (m,)."""

    @abstractmethod
    def windows(self) -> list[Window]:
        """Return the windows that a cache must hold at a time: one for each sequence in this one, over all lanes."""

    def indices(self, position: int, batch_size: int, rows: Sequence[int] | None = None) -> list[Draw]:
        """Return all or some rows of the global batch that starts after `position` draws."""
        return self.batches([position], batch_size, rows)[0]

    def batches(
        self,
        positions: Sequence[int],
        batch_size: int,
        rows: Sequence[int] | None = None,
        shape: Shape | None = None,
    ) -> list[list[Draw]]:
        """Return the `indices` of each position, in `shape`. Sixteen batches take little longer than one."""
        where = positions_of(rows, positions, batch_size, self.num_lanes)
        columns = (found.reshape(where.shape).tolist() for found in self.at(where.ravel()))
        return [list(map(_draw, zip(epochs, samples, repeat(shape)))) for epochs, samples in zip(*columns, strict=True)]

    def walked(self, position: int, batch_size: int) -> list[tuple[Draws, int]]:
        """Split the first `position` draws into sequences, and return (sequence, number of its draws) for each."""
        return [(self, position)]


def positions_of(rows: Sequence[int] | None, positions: Sequence[int], batch_size: int, num_lanes: int) -> I64:
    """Return the positions (m, p) of p rows of the m global batches that start after `positions` draws.

    The rows of a lane are neighbours; its positions are not. Raises ValueError if sizes are not multiples of
    `num_lanes`.
    """
    if any(number % num_lanes for number in (batch_size, *positions)):
        where = ", ".join(map(str, positions))
        raise ValueError(f"batch_size={batch_size} or position={where} is not divisible by num_lanes={num_lanes}")
    chosen = np.arange(batch_size) if rows is None else np.asarray(rows, np.int64)
    width = batch_size // num_lanes
    return np.array(positions, np.int64)[:, None] + chosen % width * num_lanes + chosen // width


def grouped(numbers: I64) -> Iterator[tuple[int, I64]]:
    """Yield (number, indices where it occurs) for each distinct number in `numbers` (m,)."""
    for number in np.unique(numbers).tolist():
        yield number, np.flatnonzero(numbers == number)


class Order(Draws):
    """An order of n samples, each once in positions n * epoch to n * (epoch + 1).

    `block_size` is in samples, `window` in blocks. Raises ValueError for sizes below 1.
    """

    def __init__(
        self, seed: int, fingerprint: str, num_samples: int, block_size: int = 64, window: int = 256, num_lanes: int = 1
    ) -> None:
        sizes = {"block_size": block_size, "window": window, "num_lanes": num_lanes}
        if wrong := [f"{name}={value}" for name, value in {"num_samples": num_samples, **sizes}.items() if value < 1]:
            raise ValueError(f"{', '.join(wrong)}: must be at least 1")
        self.settings = {"seed": seed, **sizes}
        self.seed = seed
        self.fingerprint = fingerprint
        self.num_samples = self.epoch_size = num_samples
        self.block_size = min(block_size, num_samples)
        self.window = window
        self.num_lanes = num_lanes
        self._num_blocks = -(-num_samples // self.block_size)
        self._missing = self._num_blocks * self.block_size - num_samples  # what the last block lacks

    def at(self, position: I64) -> tuple[I64, I64]:
        epoch = position // self.num_samples
        sample = np.empty_like(epoch)
        for number, now in grouped(epoch):
            sample[now] = self.sequence(number, self._lane_by_lane(number, position[now]))
        return epoch, sample

    def windows(self) -> list[Window]:
        return [Window(min(self.window * self.block_size * self.num_lanes, self.num_samples))]

    def sequence(self, epoch: int, position: I64) -> I64:
        """Return the samples at positions (m,) of an epoch's shuffled sequence."""
        key, short = _epoch_key(self.seed, self.fingerprint, epoch, self._num_blocks)
        first = self._slot(position, short) // self.window * self.window  # slot of the window around each position
        last = np.minimum(first + self.window, self._num_blocks)  # exclusive
        window_key = mix(key + (first // self.window).astype(np.uint64) + np.uint64(1))
        start = self._start(first, short)
        length = self._start(last, short) - start
        shuffled = start + _permute(position - start, length, window_key)
        slot = self._slot(shuffled, short)
        block = _permute(slot, np.full_like(slot, self._num_blocks), np.full(slot.shape, key))
        return block * self.block_size + shuffled - self._start(slot, short)

    def _lane_by_lane(self, epoch: int, position: I64) -> I64:
        """Return where positions (m,) are in the epoch's shuffled sequence, in which each lane's part is contiguous."""
        slot, lane = np.divmod(position, self.num_lanes)
        begin, end = (self._slots_before(number) for number in (epoch, epoch + 1))
        piece = np.concatenate([[0], np.cumsum(end - begin)[:-1]])
        return piece[lane] + slot - begin[lane]

    def _slots_before(self, epoch: int) -> I64:
        """Return each lane's slots (num_lanes,) before an epoch: #{P < epoch * n with P mod num_lanes == lane}."""
        return (epoch * self.num_samples - np.arange(self.num_lanes) + self.num_lanes - 1) // self.num_lanes

    def _start(self, slot: I64, short: int) -> I64:
        """Return the first position of a slot of the permuted blocks."""
        return slot * self.block_size - np.where(slot > short, self._missing, 0)

    def _slot(self, position: I64, short: int) -> I64:
        before = position < (short + 1) * self.block_size - self._missing
        return np.where(before, position, position + self._missing) // self.block_size


class Subset(Draws):
    """An order of some samples of a data set; `order` is one of 0..len(samples)-1, and `samples` are sorted."""

    def __init__(self, order: Draws, samples: I64 | range) -> None:
        assert order.num_samples == len(samples)
        self.order, self.samples = order, samples
        self.seed, self.num_lanes = order.seed, order.num_lanes
        self.num_samples, self.epoch_size = order.num_samples, order.epoch_size

    def at(self, position: I64) -> tuple[I64, I64]:
        epoch, index = self.order.at(position)
        if isinstance(self.samples, range):
            return epoch, self.samples.start + index
        return epoch, self.samples[index].astype(np.int64)

    def windows(self) -> list[Window]:
        stretch = (int(self.samples[-1]) + 1 - int(self.samples[0])) / len(self.samples)
        return [window._replace(stretch=stretch) for window in self.order.windows()]


@lru_cache(maxsize=4096)
def _epoch_key(seed: int, fingerprint: str, epoch: int, num_blocks: int) -> tuple[np.uint64, int]:
    """Return the key of an epoch, and the slot of the last block, which may be shorter, among its permuted blocks."""
    key = np.uint64(key_seed("order", seed, fingerprint, epoch))
    last, count = np.array([num_blocks - 1]), np.array([num_blocks])
    return key, int(_permute(last, count, np.array([key]), inverse=True)[0])


def _permute(index: I64, size: I64, key: NDArray[np.uint64], inverse: bool = False) -> I64:
    return permute(index.astype(np.uint64), size.astype(np.uint64), key, inverse).astype(np.int64)
