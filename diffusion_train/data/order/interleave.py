"""Kinds in given numbers, spread evenly and at random over a row of slots, any slot of which is known at once.

Kinds are placed one after the other, the most numerous first. A kind of which c are to stand in the t slots that are
still free has one in each of c equal strata of them, at a keyed place (jittered sampling); where c > t / 2, the slots
without it are placed so. So each stretch from the start holds a kind as often as its share says, but for at most
1 + ln(number of kinds).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from diffusion_train.data.order.permutation import U64, mix

I64 = NDArray[np.int64]
MAX_SLOTS = 2**32  # of a row: products of two numbers below stay within 64 bits
_ONE = np.uint64(1)


def counts_before(row: int, quotas: Sequence[Fraction]) -> list[int]:
    """How often each kind has come before a row, of which it has its quota on average: what is no whole number adds up."""
    return [math.floor(row * quota) for quota in quotas]


def row_of(position: int, quotas: Sequence[Fraction]) -> int:
    """The row that holds a position, where such rows follow one another."""
    row = position // sum(quotas)
    while sum(counts_before(row + 1, quotas)) <= position:
        row += 1
    return row


def interleave(slot: I64, counts: I64, key: U64) -> tuple[I64, I64]:
    """(kind, how many of this kind come before) of slots (m,), each in its own row of `counts` (kinds, m) and key (m,)."""
    counts, here = counts.astype(np.uint64), slot.astype(np.uint64)
    free = counts.sum(axis=0)
    assert (here < free).all()
    assert (free < MAX_SLOTS).all()
    kind = np.full(slot.shape, -1)
    rank = np.zeros(slot.shape, np.int64)
    for level, candidate in enumerate(np.argsort(counts, axis=0, kind="stable")[::-1]):
        count = np.take_along_axis(counts, candidate[None], axis=0)[0]
        hit, before = _spread(here, count, free, mix(key + np.uint64(level)))
        hit &= kind < 0
        kind[hit], rank[hit] = candidate[hit], before[hit]
        here, free = here - before, free - count
    return kind, rank


def _spread(slot: U64, count: U64, free: U64, key: U64) -> tuple[NDArray[np.bool_], U64]:
    """Whether `count` of the `free` slots, spread out, include this slot, and how many of them come before it."""
    few = np.minimum(count, free - count)
    strata, of = np.maximum(few, _ONE), np.maximum(free, _ONE)
    stratum = slot * strata // of
    first, end = ((number * of + strata - _ONE) // strata for number in (stratum, stratum + _ONE))
    chosen = first + mix(key + stratum) % (end - first)
    hit = (slot == chosen) & (few > 0)
    before: U64 = np.where(few > 0, stratum + (slot > chosen), 0).astype(np.uint64)
    return np.where(few < count, ~hit, hit), np.where(few < count, slot - before, before)
