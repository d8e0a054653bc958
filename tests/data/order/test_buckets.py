from __future__ import annotations

import itertools
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusion_train.data.order.buckets import Buckets
from diffusion_train.data.order.mixture import Mix
from diffusion_train.data.order.order import Order, Subset

some_sizes = st.lists(st.integers(1, 80), min_size=1, max_size=4)


def _buckets(sizes, lanes=1, seed=0):
    starts = itertools.accumulate(sizes, initial=0)
    return Buckets(
        [
            ((8 * (number + 1), 8), Subset(Order(seed, f"{number}", size, 4, 3, lanes), range(start, start + size)))
            for number, (size, start) in enumerate(zip(sizes, starts, strict=False))
        ]
    )


def _bucket(draws):
    [shape] = {draw.shape for draw in draws}
    return shape[0] // 8 - 1


@given(sizes=some_sizes, lanes=st.integers(1, 4), rows=st.integers(1, 20), start=st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_a_batch_holds_samples_of_one_bucket(sizes, lanes, rows, start):
    buckets, batch_size = _buckets(sizes, lanes), lanes * rows
    ends = np.cumsum(sizes)
    for step in range(start, start + 5):
        draws = buckets.indices(step * batch_size, batch_size)
        samples = [draw.sample for draw in draws]
        assert {int(number) for number in np.searchsorted(ends, samples, side="right")} == {_bucket(draws)}


@given(sizes=some_sizes, batch_size=st.integers(1, 16))
@settings(max_examples=15, deadline=None)
@pytest.mark.slow
def test_every_pass_of_a_bucket_holds_each_of_its_samples_once_and_nothing_is_dropped(sizes, batch_size):
    """After as many cycles as a batch has samples, each bucket is at the end of that many passes."""
    buckets = _buckets(sizes)
    draws = [buckets.indices(step * batch_size, batch_size) for step in range(sum(sizes))]
    seen = Counter(draw[:2] for draw in itertools.chain(*draws))
    assert seen == Counter(itertools.product(range(batch_size), range(sum(sizes))))


@given(sizes=some_sizes, batch_size=st.integers(1, 60), num_steps=st.integers(1, 200))
@settings(max_examples=20, deadline=None)
def test_buckets_come_in_proportion_to_their_sizes(sizes, batch_size, num_steps):
    buckets = _buckets(sizes)
    chosen = [_bucket(buckets.indices(step * batch_size, batch_size, [0])) for step in range(num_steps)]
    counts = np.bincount(chosen, minlength=len(sizes))
    assert np.abs(counts - num_steps * np.array(sizes) / sum(sizes)).max() <= 6


@given(
    lanes=st.integers(1, 4),
    rows=st.integers(1, 5),
    ranks=st.sampled_from([1, 2, 3, 4]),
    step=st.one_of(st.integers(0, 10**4), st.integers(10**12, 10**12 + 10**4)),
)
@settings(max_examples=40, deadline=None)
def test_shares_of_any_number_of_ranks_make_up_the_batch_of_a_bucket(lanes, rows, ranks, step):
    buckets = _buckets([300, 20, 90], lanes)
    batch_size = lanes * rows * ranks
    share = batch_size // ranks
    shares = [
        buckets.indices(step * batch_size, batch_size, range(rank * share, (rank + 1) * share)) for rank in range(ranks)
    ]
    assert list(itertools.chain(*shares)) == buckets.indices(step * batch_size, batch_size)


def test_buckets_have_no_rhythm():
    """What is logged every k-th step must not show one bucket alone."""
    buckets = _buckets([1000, 1000])
    chosen = np.array([_bucket(buckets.indices(step * 8, 8, [0])) for step in range(500)])
    for every in (2, 4, 10):
        assert all(0.2 < chosen[start::every].mean() < 0.8 for start in range(every))


def test_the_buckets_of_a_seed_never_change():
    buckets = _buckets([9, 4])
    assert [(_bucket(draws), *(draw.sample for draw in draws)) for draws in _steps(buckets, 3, 8)] == REMEMBERED
    assert _steps(_buckets([9, 4], seed=1), 3, 8) != _steps(buckets, 3, 8)


def _steps(buckets, batch_size, num_steps):
    return [buckets.indices(step * batch_size, batch_size) for step in range(num_steps)]


# fmt: off
REMEMBERED = [  # bucket, samples
    (1, 10, 9, 11), (0, 2, 1, 0), (0, 6, 3, 7), (0, 5, 4, 8), (1, 12, 11, 12), (0, 2, 0, 6), (0, 5, 3, 1), (0, 4, 8, 7),
]
# fmt: on


def test_a_mix_in_a_bucket_keeps_its_shares():
    sources = [Subset(Order(0, name, 40), range(start, start + 40)) for name, start in (("a", 0), ("b", 40))]
    wide = Mix(sources, [Fraction(1), Fraction(3)])
    buckets = Buckets([((8, 16), wide), ((8, 8), Subset(Order(0, "c", 160), range(80, 240)))])
    draws = list(itertools.chain(*_steps(buckets, 16, 20)))
    assert Counter(draw.sample for draw in draws) == Counter(
        dict.fromkeys(range(40), 1) | dict.fromkeys(range(40, 80), 3) | dict.fromkeys(range(80, 240), 1)
    )


@pytest.mark.parametrize(("before", "after"), [(32, 48), (48, 20), (7, 16)])
def test_another_batch_size_goes_on_with_each_bucket_within_a_few_batches(before, after):
    """From any position: the batch is whole, of one bucket, and no bucket is far from where it was."""
    sizes = [4000, 900, 100]
    buckets = _buckets(sizes)
    num_steps = 97
    done = Counter(_bucket(buckets.indices(step * before, before, [0])) for step in range(num_steps))
    position = num_steps * before
    first_draws = {}
    for step in range(200):
        draws = buckets.indices(position + step * after, after)
        first_draws.setdefault(_bucket(draws), (step, draws))
    assert len(first_draws) == len(sizes)
    for number, (_, draws) in first_draws.items():
        assert len(draws) == after
        stream = buckets.draws[number].indices(0, 40 * sizes[number])
        reached = stream.index(draws[0]._replace(shape=None))
        assert abs(reached - done[number] * before) <= 4 * max(before, after)


def test_the_report_names_buckets_smaller_than_a_batch():
    large, small = map(str, _buckets([1000, 6]).occupancy(16))
    assert large == "8x8: 1,000 samples, 62.5 batches per pass over the data"
    assert small.startswith("8x16: 6 samples, 0.375 batches per pass over the data; fewer than data.batch_size=16")
    assert small.endswith("a batch contains some of them 3 times")
    buckets = _buckets([1000, 6])
    small = next(draws for draws in _steps(buckets, 16, 400) if _bucket(draws) == 1)
    assert max(Counter(draw.sample for draw in small).values()) == 3
