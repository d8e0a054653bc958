from __future__ import annotations

import itertools
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusion_train.data.order.mixture import Mix, repeats_of
from diffusion_train.data.order.order import Order, Subset

sizes_of_sources = st.lists(st.integers(1, 60), min_size=1, max_size=5)
tenths = st.integers(1, 35).map(lambda number: Fraction(number, 10))


def _mix(sizes, repeats, lanes=1, seed=0):
    starts = itertools.accumulate(sizes, initial=0)
    sources = [
        Subset(Order(seed, f"source {number}", size, 4, 3, lanes), range(start, start + size))
        for number, (size, start) in enumerate(zip(sizes, starts, strict=False))
    ]
    return Mix(sources, [Fraction(number) for number in repeats])


def _draws(mix, start, end):
    epoch, sample = mix.at(np.arange(start, end))
    return list(zip(epoch.tolist(), sample.tolist(), strict=True))


@given(sizes=sizes_of_sources, data=st.data(), lanes=st.integers(1, 5), epoch=st.integers(0, 4))
@settings(max_examples=80, deadline=None)
def test_with_whole_repeats_each_sample_comes_exactly_so_often_an_epoch(sizes, data, lanes, epoch):
    repeats = data.draw(st.lists(st.integers(1, 3), min_size=len(sizes), max_size=len(sizes)))
    mix = _mix(sizes, repeats, lanes)
    size = int(mix.epoch_size)
    expected = Counter()
    for source, start in enumerate(itertools.accumulate(sizes[:-1], initial=0)):
        passes = range(epoch * repeats[source], (epoch + 1) * repeats[source])
        expected.update(itertools.product(passes, range(start, start + sizes[source])))
    assert Counter(_draws(mix, epoch * size, (epoch + 1) * size)) == expected


@given(sizes=sizes_of_sources, data=st.data(), lanes=st.integers(1, 4))
@settings(max_examples=40, deadline=None)
def test_fractional_repeats_are_exact_in_the_long_run_and_no_tail_is_dropped(sizes, data, lanes):
    """After ten epochs each source is at the end of a pass, and each of its passes held each of its samples once."""
    repeats = data.draw(st.lists(tenths, min_size=len(sizes), max_size=len(sizes)))
    mix = _mix(sizes, repeats, lanes)
    expected = Counter()
    for source, start in enumerate(itertools.accumulate(sizes[:-1], initial=0)):
        expected.update(itertools.product(range(int(10 * repeats[source])), range(start, start + sizes[source])))
    assert Counter(_draws(mix, 0, int(10 * mix.epoch_size))) == expected


@given(sizes=sizes_of_sources, data=st.data(), start=st.integers(0, 10**9), length=st.integers(1, 2000))
@settings(max_examples=25, deadline=None)
@pytest.mark.slow
def test_any_stretch_keeps_to_the_weights_but_for_a_few_samples(sizes, data, start, length):
    weights = data.draw(st.lists(tenths, min_size=len(sizes), max_size=len(sizes)))
    names = [str(number) for number in range(len(sizes))]
    repeats = repeats_of(dict(zip(names, sizes, strict=True)), None, dict(zip(names, map(float, weights), strict=True)))
    mix = _mix(sizes, repeats)
    assert mix.epoch_size == sum(sizes)
    _, sample = mix.at(np.arange(start, start + length))
    source = np.searchsorted(np.cumsum(sizes), sample, side="right")
    counts = np.bincount(source, minlength=len(sizes))
    shares = np.array([float(weight / sum(weights)) for weight in weights])
    assert np.abs(counts - length * shares).max() <= 8


@given(lanes=st.integers(1, 4), rows=st.integers(1, 5), ranks=st.sampled_from([1, 2, 3, 4]), step=st.integers(0, 10**6))
@settings(max_examples=40, deadline=None)
def test_shares_of_any_number_of_ranks_make_up_the_batch_of_a_mix(lanes, rows, ranks, step):
    mix = _mix([50, 7, 120], [1, Fraction("2.5"), 1], lanes)
    batch_size = lanes * rows * ranks
    share = batch_size // ranks
    shares = [
        mix.indices(step * batch_size, batch_size, range(rank * share, (rank + 1) * share)) for rank in range(ranks)
    ]
    assert list(itertools.chain(*shares)) == mix.indices(step * batch_size, batch_size)


@pytest.mark.parametrize("lanes", [1, 3])
def test_a_source_is_walked_through_in_its_own_order(lanes):
    """So that its reads stay nearly sequential: each lane goes through its own piece of a pass."""
    sizes = [600, 900]
    mix = _mix(sizes, [1, 2], lanes)
    position = np.arange(int(mix.epoch_size))
    epochs, samples = mix.at(position)
    for number, source in enumerate(mix.sources):
        its = np.searchsorted(np.cumsum(sizes), samples, side="right") == number
        for lane in range(lanes):
            seen = np.stack([epochs, samples])[:, its & (position % lanes == lane)]
            walks = [
                np.stack(source.at(np.arange(start, seen.shape[1] * lanes + start, lanes))) for start in range(lanes)
            ]
            assert any((seen == walk).all() for walk in walks)


def test_sources_are_spread_over_each_batch():
    mix = _mix([1000, 1000, 2000], [1, 1, 1])
    for position in range(0, 4000, 40):
        counts = np.bincount([min(draw.sample // 1000, 2) for draw in mix.indices(position, 40)], minlength=3)
        assert np.abs(counts - [10, 10, 20]).max() <= 3


def test_the_mix_of_a_seed_never_changes():
    draws = _mix([3, 5], [2, 1]).indices(0, 11)
    assert [draw[:2] for draw in draws] == REMEMBERED
    assert [draw[:2] for draw in _mix([3, 5], [2, 1], seed=1).indices(0, 11)] != REMEMBERED


# fmt: off
REMEMBERED = [
    (0, 6), (0, 0), (0, 2), (0, 1), (0, 5), (0, 3), (1, 2), (0, 4), (1, 1), (1, 0), (0, 7),
]
# fmt: on


SIZES = {"photos": 100, "drawings": 50}


@pytest.mark.parametrize(
    ("repeats", "weights", "expected"),
    [
        ({}, {}, [1, 1]),
        ({"drawings": 0.1}, {}, [1, Fraction(1, 10)]),
        ({}, {"photos": 1, "drawings": 1}, [Fraction(3, 4), Fraction(3, 2)]),
    ],
    ids=["neither", "repeats", "weights"],
)
def test_repeats_are_the_numbers_written(repeats, weights, expected):
    assert repeats_of(SIZES, repeats, weights) == expected


@pytest.mark.parametrize(
    ("repeats", "weights", "message"),
    [
        ({"photo": 2}, {}, "data.repeats: no source photo; the sources are photos, drawings"),
        ({"photos": 0}, {}, "data.repeats: must be more than 0, got photos=0; to train without a source"),
        ({}, {"photos": float("nan"), "drawings": 1}, "data.weights: must be more than 0, got photos=nan"),
        ({}, {"photos": 1}, "data.weights: missing for drawings"),
        ({"photos": 1}, {"photos": 1}, "data.repeats and data.weights: give only one"),
    ],
)
def test_impossible_shares_are_refused(repeats, weights, message):
    with pytest.raises(ValueError, match=message):
        repeats_of(SIZES, repeats, weights)


def test_too_many_draws_an_epoch_are_refused():
    with pytest.raises(ValueError, match=r"4.3e\+09 draws, too many for data.num_lanes=1: lower data.repeats"):
        _mix([10**9], [4.3])
    _mix([10**9], [4.3], lanes=2)
