from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from diffusion_train.data.order.interleave import interleave

some_counts = st.lists(st.one_of(st.integers(0, 3), st.integers(0, 300)), min_size=1, max_size=8).filter(any)


def _row(counts, key, slots=None):
    slots = np.arange(sum(counts)) if slots is None else np.asarray(slots)
    return interleave(slots, np.repeat(np.array(counts)[:, None], len(slots), 1), np.full(len(slots), key, np.uint64))


@given(counts=some_counts, key=st.integers(0, 2**64 - 1))
@settings(max_examples=150, deadline=None)
def test_each_kind_comes_as_often_as_it_should_and_is_counted_up(counts, key):
    kinds, ranks = _row(counts, key)
    for kind, count in enumerate(counts):
        assert ranks[kinds == kind].tolist() == list(range(count))


@given(counts=some_counts, key=st.integers(0, 2**64 - 1))
@example(counts=[50] * 20 + [1000], key=0)
@example(counts=[1] * 5 + [500], key=1)
@settings(max_examples=150, deadline=None)
def test_shares_hold_from_the_start_of_a_row_to_any_slot(counts, key):
    kinds, _ = _row(counts, key)
    share = np.array(counts) / sum(counts)
    seen = np.cumsum(kinds[:, None] == np.arange(len(counts)), axis=0)
    away = np.abs(seen - np.arange(1, len(kinds) + 1)[:, None] * share)
    assert away.max() <= 1 + math.log(len(counts))


def test_slots_are_known_without_those_before():
    counts = [40, 7, 90]
    kinds, ranks = _row(counts, 5)
    chosen = [100, 3, 77]
    assert [column.tolist() for column in _row(counts, 5, chosen)] == [kinds[chosen].tolist(), ranks[chosen].tolist()]


@pytest.mark.parametrize("counts", [[500, 500], [100, 900], [200] * 5], ids=str)
def test_no_rhythm_is_left(counts):
    """What is logged every k-th step must not show one kind alone."""
    kinds, _ = _row(counts, 1)
    for every in (2, 5, 10):
        shares = np.array(
            [[np.mean(kinds[start::every] == kind) for kind in range(len(counts))] for start in range(every)]
        )
        assert np.abs(shares - np.array(counts) / 1000).max() < 0.12
    assert (kinds != _row(counts, 2)[0]).mean() > 0.1


def test_rows_of_four_billion_slots_are_exact():
    total = 2**32 - 1
    counts = [total // 3, total // 2, total - total // 3 - total // 2]
    kinds, ranks = _row(counts, 9, [0, total // 2, total - 1])
    assert all(0 <= rank < counts[kind] for kind, rank in zip(kinds, ranks, strict=True))
    _, last = _row(counts, 9, range(total - 50, total))
    kinds, _ = _row(counts, 9, range(total - 50, total))
    assert [int(last[kinds == kind].max()) for kind in range(3)] == [count - 1 for count in counts]
