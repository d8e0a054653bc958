"""Spread given numbers of several kinds evenly and randomly over a row of slots; any slot is computed in O(1).

Kinds are placed one after the other, the most numerous first. For a kind with c items and t free slots, the free slots
are divided into c equal strata, and one item goes to a keyed random slot of each (jittered sampling); if c > t / 2, the
slots without the kind are placed in this way. So each stretch from the start contains a kind in proportion, with a
deviation of at most 1 + ln(number of kinds).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from diffusion_train.data.order.permutation import U64, mix

I64 = NDArray[np.int64]
MAX_SLOTS = 2**32  # in a row, so that products of two such numbers fit into 64 bits
_ONE = np.uint64(1)


def counts_before(row: int, quotas: Sequence[Fraction]) -> list[int]:
    """Return how often each kind occurs before a row, if a row has its quota on average (quotas may be fractions)."""
    return [math.floor(row * quota) for quota in quotas]


def row_of(position: int, quotas: Sequence[Fraction]) -> int:
    """Return the row of a position in a sequence of such rows."""
    row = position // sum(quotas)
    while sum(counts_before(row + 1, quotas)) <= position:
        row += 1
    return row


def interleave(slot: I64, counts: I64, key: U64) -> tuple[I64, I64]:
    """Return (kind, number of earlier slots of this kind) of slots (m,).

    Each slot is in its own row, which has `counts` (kinds, m) and a key (m,).
    """
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
    """Spread `count` items over the `free` slots; return whether this slot has one, and how many come before it."""
    few = np.minimum(count, free - count)
    strata, of = np.maximum(few, _ONE), np.maximum(free, _ONE)
    stratum = slot * strata // of
    first, end = ((number * of + strata - _ONE) // strata for number in (stratum, stratum + _ONE))
    chosen = first + mix(key + stratum) % (end - first)
    hit = (slot == chosen) & (few > 0)
    before: U64 = np.where(few > 0, stratum + (slot > chosen), 0).astype(np.uint64)
    return np.where(few < count, ~hit, hit), np.where(few < count, slot - before, before)
