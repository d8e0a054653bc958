"""Mix several sources into one sequence, each with its own fraction of the draws.

In an epoch of the mix each sample of a source is drawn `repeats` times. The draws come from the source's own endless
sequence, so that no end of a pass is dropped. `repeats` may be a fraction: a source of n samples has had
floor(e * repeats * n) draws before epoch e.

The draws of an epoch, one source after the other, are dealt to the lanes in turn, and each lane spreads its draws over
its slots. So a lane has its own part of every source, and the fractions hold within each lane.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction

import numpy as np

from diffusion_train.data.order.interleave import MAX_SLOTS, counts_before, interleave, row_of
from diffusion_train.data.order.order import I64, Draws, Window, grouped
from diffusion_train.data.order.permutation import mix
from diffusion_train.utils.rng import key_seed


class Mix(Draws):
    """An order that mixes sources with their repeats. Sample numbers are those of the whole data set, as in `Subset`.

    Raises ValueError if an epoch has too many draws.
    """

    def __init__(self, sources: Sequence[Draws], repeats: Sequence[Fraction]) -> None:
        self.sources, self.seed, self.num_lanes = sources, sources[0].seed, sources[0].num_lanes
        assert all(source.num_lanes == self.num_lanes for source in sources)
        self.num_samples = sum(source.num_samples for source in sources)
        self.quotas = [times * source.num_samples for source, times in zip(sources, repeats, strict=True)]
        self.epoch_size = sum(self.quotas)
        if self.epoch_size >= MAX_SLOTS * self.num_lanes:
            raise ValueError(
                f"an epoch of the mix has {float(self.epoch_size):.3g} draws, too many for data.num_lanes="
                f"{self.num_lanes}: lower data.repeats in proportion, or raise data.num_lanes"
            )

    def at(self, position: I64) -> tuple[I64, I64]:
        source, own_position = np.empty_like(position), np.empty_like(position)
        first, last = (row_of(int(end), self.quotas) for end in (position.min(), position.max()))
        begins = [sum(counts_before(epoch, self.quotas)) for epoch in range(first + 1, last + 1)]
        for further, its in grouped(np.searchsorted(begins, position, side="right")):
            source[its], own_position[its] = self._within(first + further, position[its])
        epochs, samples = np.empty_like(position), np.empty_like(position)
        for number, its in grouped(source):
            epochs[its], samples[its] = self.sources[number].at(own_position[its])
        return epochs, samples

    def windows(self) -> list[Window]:
        return [window for source in self.sources for window in source.windows()]

    def _within(self, epoch: int, position: I64) -> tuple[I64, I64]:
        """Return (source, position in the source's sequence) of positions (m,) of one epoch of the mix."""
        before = np.array(counts_before(epoch, self.quotas))
        draws = counts_before(epoch + 1, self.quotas) - before
        start = before.sum()
        source_start = start + np.cumsum(draws) - draws
        lane = position % self.num_lanes
        first = (lane - source_start[:, None]) % self.num_lanes  # a lane's first draw of each source
        counts = (draws[:, None] - first + self.num_lanes - 1) // self.num_lanes
        key = np.uint64(key_seed("mix", self.seed, epoch)) + lane.astype(np.uint64)
        source, rank = interleave((position - start) // self.num_lanes, counts, mix(key))
        return source, before[source] + first[source, np.arange(len(position))] + rank * self.num_lanes


def repeats_of(
    sizes: Mapping[str, int], repeats: Mapping[str, float] | None, weights: Mapping[str, float] | None
) -> list[Fraction]:
    """Return the repeats of each source: `repeats` (default 1), or repeats that give fractions of draws by `weights`.

    With `weights` an epoch has as many draws as there are samples. Raises ValueError for wrong settings.
    """
    if repeats and weights:
        raise ValueError("data.repeats and data.weights: give only one of them")
    _refuse("data.repeats", sizes, repeats or {})
    _refuse("data.weights", sizes, weights or {})
    if not weights:
        return [_exact((repeats or {}).get(name, 1)) for name in sizes]
    if missing := sizes.keys() - weights.keys():
        raise ValueError(f"data.weights: missing for {', '.join(sorted(missing))}; give one for every source")
    num_samples, total = sum(sizes.values()), sum(_exact(weight) for weight in weights.values())
    return [_exact(weights[name]) * num_samples / (total * size) for name, size in sizes.items()]


def _refuse(key: str, sizes: Mapping[str, int], settings: Mapping[str, float]) -> None:
    if unknown := settings.keys() - sizes.keys():
        raise ValueError(f"{key}: no source {', '.join(sorted(unknown))}; the sources are {', '.join(sizes)}")
    if wrong := [f"{name}={value}" for name, value in settings.items() if not 0 < value < math.inf]:
        raise ValueError(
            f"{key}: must be more than 0, got {', '.join(wrong)}; to train without a source, remove it from data.shards"
        )


def _exact(number: float) -> Fraction:
    """Return the decimal number as written, not the nearest binary one."""
    return Fraction(str(number))
