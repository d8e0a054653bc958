"""Batches of one shape: samples are sorted into buckets by aspect ratio, and each batch is drawn from one bucket.

Each bucket has its own endless sequence of draws, from which its batches are cut. If a pass ends within a batch, the
next pass begins in the same batch, so that nothing is dropped. A cycle of steps covers the data about once: with n
samples in a bucket and B in a batch, floor(e * n / B) batches of the bucket come before cycle e. They are spread over
the cycle randomly but evenly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from diffusion_train.data.order.interleave import counts_before, interleave, row_of
from diffusion_train.data.order.order import I64, Draw, Draws, Shape, Window, grouped
from diffusion_train.utils.rng import key_seed


@dataclass(frozen=True)
class Occupancy:
    """How full a bucket is: its number of samples, and of batches in one pass over the data."""

    shape: Shape
    num_samples: int
    batch_size: int
    batches_a_cycle: float

    @property
    def copies(self) -> int:
        """How many times some samples occur in the same batch, at least."""
        return -(-self.batch_size // self.num_samples)

    def __str__(self) -> str:
        height, width = self.shape
        text = (
            f"{width}x{height}: {self.num_samples:,} samples, {self.batches_a_cycle:,.4g} batches per pass over the "
            "data"
        )
        if self.copies == 1:
            return text
        return (
            f"{text}; fewer than data.batch_size={self.batch_size}, so a batch contains some of them {self.copies} "
            "times"
        )


class Buckets:
    """An order like `Draws`, but with a separate sequence of draws for each shape."""

    def __init__(self, buckets: Sequence[tuple[Shape, Draws]]) -> None:
        self.shapes = [shape for shape, _ in buckets]
        self.draws = [draws for _, draws in buckets]
        self.seed, self.num_lanes = self.draws[0].seed, self.draws[0].num_lanes
        assert all(draws.num_lanes == self.num_lanes for draws in self.draws)
        self.num_samples = sum(draws.num_samples for draws in self.draws)
        self.epoch_size = sum(draws.epoch_size for draws in self.draws)

    def indices(self, position: int, batch_size: int, rows: Sequence[int] | None = None) -> list[Draw]:
        """Return all or some rows of the global batch that starts after `position` draws.

        All batches must have the same size, because a position has another meaning for another size.
        """
        return self.batches([position], batch_size, rows)[0]

    def batches(self, positions: Sequence[int], batch_size: int, rows: Sequence[int] | None = None) -> list[list[Draw]]:
        """Return the `indices` of each position."""
        bucket, batch = self._batches(np.array(positions, np.int64) // batch_size, batch_size)
        found: dict[int, list[Draw]] = {}
        for number, its in grouped(bucket):
            after = (batch[its] * batch_size).tolist()
            batches = self.draws[number].batches(after, batch_size, rows, self.shapes[number])
            found |= zip(its.tolist(), batches, strict=True)
        return [found[step] for step in range(len(positions))]

    def windows(self) -> list[Window]:
        return [window for draws in self.draws for window in draws.windows()]

    def walked(self, position: int, batch_size: int) -> list[tuple[Draws, int]]:
        """Split the first `position` draws into sequences, and return (sequence, number of its draws) for each."""
        step, quotas = position // batch_size, self._quotas(batch_size)
        cycle = row_of(step, quotas)
        before = np.array(counts_before(cycle, quotas))
        bucket, _ = self._of_cycle(cycle, quotas, np.arange(step - before.sum()))
        batches = before + np.bincount(bucket, minlength=len(self.draws))
        return list(zip(self.draws, (batches * batch_size).tolist(), strict=True))

    def occupancy(self, batch_size: int) -> list[Occupancy]:
        """Return how full each bucket is for batches of this size."""
        return [
            Occupancy(shape, draws.num_samples, batch_size, float(quota))
            for shape, draws, quota in zip(self.shapes, self.draws, self._quotas(batch_size), strict=True)
        ]

    def _batches(self, steps: I64, batch_size: int) -> tuple[I64, I64]:
        """Return (bucket, number of the batch in the bucket's sequence) of steps (m,)."""
        quotas = self._quotas(batch_size)
        cycles = np.array([row_of(step, quotas) for step in steps.tolist()])
        bucket, batch = np.empty_like(steps), np.empty_like(steps)
        for cycle, now in grouped(cycles):
            before = np.array(counts_before(cycle, quotas))
            bucket[now], rank = self._of_cycle(cycle, quotas, steps[now] - before.sum())
            batch[now] = before[bucket[now]] + rank
        return bucket, batch

    def _of_cycle(self, cycle: int, quotas: Sequence[Fraction], step: I64) -> tuple[I64, I64]:
        """Return (bucket, number of its earlier batches in the cycle) of steps (m,), counted from the cycle's first."""
        counts = np.subtract(counts_before(cycle + 1, quotas), counts_before(cycle, quotas))
        key = np.full(len(step), key_seed("buckets", self.seed, cycle), np.uint64)
        return interleave(step, np.broadcast_to(counts[:, None], (len(counts), len(step))), key)

    def _quotas(self, batch_size: int) -> list[Fraction]:
        """Return the average number of batches of each bucket in a cycle."""
        return [draws.epoch_size / Fraction(batch_size) for draws in self.draws]
