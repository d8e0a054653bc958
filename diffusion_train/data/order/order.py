"""Which sample stands at which position of an endless training run: a pure function with O(1) time and memory.

An epoch is a permutation of the samples. Blocks of neighbouring samples are permuted, then the samples inside each
window of `window` consecutive blocks, so that reading stays nearly sequential. Epochs follow one another without a gap.

Words: row = of the global batch; lane = a group of neighbouring rows that keeps to its own piece of each epoch;
slot = one of a lane's turns, x = 0, 1, 2, ...
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
    """A sample's turn in one pass over the data; `shape` where it is not the data set's own."""

    epoch: int
    sample: int
    shape: Shape | None = None


_draw = partial(tuple.__new__, Draw)  # as `Draw._make`, without a call of Python's for each


class Window(NamedTuple):
    """So many samples are shuffled among themselves at a time; they lie among `stretch` times as many of the data set."""

    num_samples: int
    stretch: float = 1.0


class Draws(ABC):
    """An endless sequence of draws, any of which is known by its position: position mod `num_lanes` is its lane.

    `epoch_size` is the number of draws in which each sample comes as often as it is meant to, on average.
    """

    seed: int
    num_samples: int
    epoch_size: Fraction | int
    num_lanes: int

    @abstractmethod
    def at(self, position: I64) -> tuple[I64, I64]:
        """(epoch, sample) of positions (m,)."""

    @abstractmethod
    def windows(self) -> list[Window]:
        """What a cache holds at a time: the window of each sequence that goes into this one, over all lanes."""

    def indices(self, position: int, batch_size: int, rows: Sequence[int] | None = None) -> list[Draw]:
        """All or some rows of the global batch that comes after `position` draws."""
        return self.batches([position], batch_size, rows)[0]

    def batches(
        self,
        positions: Sequence[int],
        batch_size: int,
        rows: Sequence[int] | None = None,
        shape: Shape | None = None,
    ) -> list[list[Draw]]:
        """The `indices` of each position, in `shape`. Found together: sixteen batches cost little more than one."""
        where = positions_of(rows, positions, batch_size, self.num_lanes)
        columns = (found.reshape(where.shape).tolist() for found in self.at(where.ravel()))
        return [list(map(_draw, zip(epochs, samples, repeat(shape)))) for epochs, samples in zip(*columns, strict=True)]

    def walked(self, position: int, batch_size: int) -> list[tuple[Draws, int]]:
        """The first `position` draws as sequences with how far each was walked."""
        return [(self, position)]


def positions_of(rows: Sequence[int] | None, positions: Sequence[int], batch_size: int, num_lanes: int) -> I64:
    """Where p rows of the m global batches that come after `positions` draws stand in the sequence (m, p).

    A lane's rows are neighbours, its positions are not.
    """
    if any(number % num_lanes for number in (batch_size, *positions)):
        where = ", ".join(map(str, positions))
        raise ValueError(f"batch_size={batch_size} or position={where} is not divisible by num_lanes={num_lanes}")
    chosen = np.arange(batch_size) if rows is None else np.asarray(rows, np.int64)
    width = batch_size // num_lanes
    return np.array(positions, np.int64)[:, None] + chosen % width * num_lanes + chosen // width


def grouped(numbers: I64) -> Iterator[tuple[int, I64]]:
    """(number, where it stands) for each number among `numbers` (m,)."""
    for number in np.unique(numbers).tolist():
        yield number, np.flatnonzero(numbers == number)


class Order(Draws):
    """Each of n samples once in positions n * epoch to n * (epoch + 1); `block_size` in samples, `window` in blocks."""

    def __init__(
        self, seed: int, fingerprint: str, num_samples: int, block_size: int = 64, window: int = 256, num_lanes: int = 1
    ) -> None:
        sizes = {"block_size": block_size, "window": window, "num_lanes": num_lanes}
        if wrong := [f"{name}={value}" for name, value in {"num_samples": num_samples, **sizes}.items() if value < 1]:
            raise ValueError(f"{', '.join(wrong)}: at least 1 is needed")
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
        """Samples at positions (m,) of an epoch's shuffled sequence."""
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
        """Where in the epoch's shuffled sequence positions lie: lane after lane, each lane's piece contiguous."""
        slot, lane = np.divmod(position, self.num_lanes)
        begin, end = (self._slots_before(number) for number in (epoch, epoch + 1))
        piece = np.concatenate([[0], np.cumsum(end - begin)[:-1]])
        return piece[lane] + slot - begin[lane]

    def _slots_before(self, epoch: int) -> I64:
        """Slots each lane (num_lanes,) has had before an epoch: #{P < epoch * n with P mod num_lanes == lane}."""
        return (epoch * self.num_samples - np.arange(self.num_lanes) + self.num_lanes - 1) // self.num_lanes

    def _start(self, slot: I64, short: int) -> I64:
        """The first position of a slot of the permuted blocks."""
        return slot * self.block_size - np.where(slot > short, self._missing, 0)

    def _slot(self, position: I64, short: int) -> I64:
        before = position < (short + 1) * self.block_size - self._missing
        return np.where(before, position, position + self._missing) // self.block_size


class Subset(Draws):
    """Some samples of a data set in the order of their numbers: `order` runs over 0..len(samples)-1."""

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
    """The key of an epoch, and where among its permuted blocks the last block stands, the one that may be shorter."""
    key = np.uint64(key_seed("order", seed, fingerprint, epoch))
    last, count = np.array([num_blocks - 1]), np.array([num_blocks])
    return key, int(_permute(last, count, np.array([key]), inverse=True)[0])


def _permute(index: I64, size: I64, key: NDArray[np.uint64], inverse: bool = False) -> I64:
    return permute(index.astype(np.uint64), size.astype(np.uint64), key, inverse).astype(np.int64)
