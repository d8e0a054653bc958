"""A data set that grew or shrank goes on with the samples not seen yet."""

from __future__ import annotations

import itertools
from collections import Counter
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusion_train.data.order.continuation import NEVER, NEW, carry_over, indices_of, last_epochs
from diffusion_train.data.order.order import Order
from diffusion_train.data.order.order_spec import OrderSpec
from diffusion_train.data.order.resolution import AspectRatios


def _arrangement(lanes=1, **options):
    return OrderSpec(partial(Order, seed=0, block_size=4, window=3, num_lanes=lanes), **options)


def _never(count):
    return np.full(count, NEVER)


def _named(letters):
    return np.array([ord(letter) for letter in letters], np.uint64)


def _walk(order, batch_size, num_steps):
    steps = [order.indices(step * batch_size, batch_size) for step in range(num_steps)]
    return [draw[:2] for draw in itertools.chain(*steps)]


@given(n=st.integers(2, 120), lanes=st.integers(1, 4), rows=st.integers(1, 5), num_steps=st.integers(0, 60))
@settings(max_examples=60, deadline=None)
def test_last_epochs_are_those_of_the_whole_walk(n, lanes, rows, num_steps):
    order = _arrangement(lanes)("a", {"all": n})
    expected = _never(n)
    for epoch, sample in _walk(order, lanes * rows, num_steps):
        expected[sample] = max(epoch, expected[sample])
    found = last_epochs(order, _never(n), num_steps * lanes * rows, lanes * rows)
    assert found.tolist() == expected.tolist()


@given(
    num_old=st.integers(1, 80),
    num_new=st.integers(0, 30),
    num_gone=st.integers(0, 30),
    lanes=st.integers(1, 3),
    num_steps=st.integers(1, 60),
)
@settings(max_examples=80, deadline=None)
@pytest.mark.slow
def test_dataset_grew_or_shrank(num_old, num_new, num_gone, lanes, num_steps):
    """The first partial epoch holds exactly what was not seen in this one, and what is new; then come whole epochs."""
    names = np.arange(1000, 1000 + num_old, dtype=np.uint64)
    kept = names[min(num_gone, num_old - 1) :]
    now = np.concatenate([np.arange(num_new, dtype=np.uint64), kept[::-1]])
    batch_size = 4 * lanes
    old_order = _arrangement(lanes)("old", {"all": num_old})
    walked = _walk(old_order, batch_size, num_steps)
    epoch = (len(walked) - 1) // num_old
    seen = {names[sample] for number, sample in walked if number == epoch}

    newest = last_epochs(old_order, _never(num_old), len(walked), batch_size)
    newest = carry_over(newest, indices_of(now, names))
    order = _arrangement(lanes)("new", {"all": len(now)}, newest=newest)
    whole = len(seen) == num_old or not set(kept) - seen
    left = [] if whole else [place for place, name in enumerate(now) if name not in seen]
    epochs, samples = order.at(np.arange(len(left) + 2 * len(now)))
    assert sorted(samples[: len(left)].tolist()) == left
    assert set(epochs[: len(left)].tolist()) <= {epoch}
    for number in (0, 1):
        following = slice(len(left) + number * len(now), len(left) + (number + 1) * len(now))
        assert set(epochs[following].tolist()) == {epoch + number + 1}
        assert sorted(samples[following].tolist()) == list(range(len(now)))


@pytest.mark.parametrize("num_steps", [1, 40, 95])
@pytest.mark.parametrize("after", [8, 12], ids=["same-batch", "other-batch"])
@pytest.mark.parametrize("lanes", [1, 2])
def test_sources_in_buckets_each_go_on_with_what_they_have_not_seen(num_steps, after, lanes):
    """Over the change no sample is drawn in an epoch twice, and none is left out."""
    arrange = _arrangement(lanes, ratios=AspectRatios(2, 64), image_size=256, repeats={"b": 2.5})
    sources = {"a": 70, "b": 32}
    sizes = np.array([[400, 400], [400, 250]] * 51)
    old = arrange("data", sources, sizes)
    newest = last_epochs(old, _never(102), num_steps * 8, 8)
    order = arrange("data", sources, sizes, newest)
    seen = Counter(_walk(old, 8, num_steps)) + Counter(_walk(order, after, 100))
    assert max(seen.values()) == 1
    last = {sample: max(epoch for epoch, of in seen if of == sample) for sample in range(102)}
    assert all((epoch, sample) in seen for sample in range(102) for epoch in range(last[sample]))


def test_a_second_change_knows_what_the_first_one_knew():
    first = _arrangement()("a", {"all": 50})
    newest = last_epochs(first, _never(50), 24, 8)
    second = _arrangement()("b", {"all": 50}, newest=newest)
    newest = last_epochs(second, newest, 16, 8)
    third = _arrangement()("c", {"all": 50}, newest=newest)
    seen = _walk(first, 8, 3) + _walk(second, 8, 2) + third.indices(0, 10)
    assert sorted(draw[:2] for draw in seen) == [(0, sample) for sample in range(50)]


def test_names_carry_over_what_is_known():
    places = indices_of(_named("bza"), _named("cab"))
    assert places.tolist() == [2, -1, 1]
    assert carry_over(np.array([4, 2, 3]), places).tolist() == [3, NEW, 2]


def test_samples_of_one_name_go_on_one_for_one():
    assert indices_of(_named("aabbaaa"), _named("abaa")).tolist() == [0, 2, 1, -1, 3, -1, -1]
    assert carry_over(_never(0), indices_of(_named("ab"), _named(""))).tolist() == [NEW, NEW]
    assert len(indices_of(_named(""), _named("a"))) == 0
