"""Batches whose draws are found together are those that are found one at a time."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusion_train.data.order.buckets import Buckets
from diffusion_train.data.order.continuation import Remainder
from diffusion_train.data.order.mixture import Mix
from diffusion_train.data.order.order import Order
from diffusion_train.data.order.order_spec import OrderSpec
from diffusion_train.data.order.resolution import AspectRatios, Resolution
from diffusion_train.data.rank_batches import Plan, RankBatches

SOURCES = {"a": 37, "b": 20}
RATIOS = AspectRatios(2, 8)
ORDERS = {
    "plain": (Order, {}, None),
    "mixed": (Mix, {"repeats": {"a": 1.3, "b": 0.4}}, None),
    "buckets": (Buckets, {"ratios": RATIOS, "image_size": 32}, None),
    "mixed in buckets": (Buckets, {"weights": {"a": 1, "b": 3}, "ratios": RATIOS, "image_size": 32}, None),
    "what is left of a pass": (Remainder, {}, np.arange(57) % 3),
}


def _order(name, lanes):
    kind, options, newest = ORDERS[name]
    order_spec = OrderSpec(partial(Order, seed=3, block_size=4, window=3, num_lanes=lanes), **options)
    sources = SOURCES if kind in (Mix, Buckets) else {"a": 57}
    order = order_spec("data", sources, np.random.default_rng(0).integers(20, 60, (57, 2)), newest)
    assert isinstance(order, kind)
    return order


def _one_at_a_time(data, number):
    position = data.start_position + number * data.batch_size
    if data.num_repeated_batches:
        position %= data.num_repeated_batches * data.batch_size
    draws = data.order.indices(position, data.batch_size)
    if data.resolution:
        draws = data.resolution.shaped(draws, data.start_step + number)
    return [draws[row] for row in data.rows]


@pytest.mark.parametrize("name", ORDERS)
@given(
    lanes=st.integers(1, 3),
    rows=st.integers(1, 9),
    ranks=st.integers(1, 3),
    start=st.integers(0, 10**6),
    numbers=st.lists(st.integers(0, 60), min_size=1, max_size=20),
    repeated=st.none() | st.integers(1, 5),
    resolution=st.sampled_from([None, Resolution([(0, 16), (10, 32)], RATIOS)]),
    data=st.data(),
)
@settings(max_examples=15, deadline=None)
def test_planning_together_is_planning_one_at_a_time(
    name, lanes, rows, ranks, start, numbers, repeated, resolution, data
):
    batch_size = lanes * rows * ranks
    num_rows, rank = batch_size // ranks, data.draw(st.integers(0, ranks - 1))
    batches = RankBatches(
        order=_order(name, lanes), resolution=resolution, batch_size=batch_size, num_repeated_batches=repeated,
        start_step=data.draw(st.integers(0, 20)), start_position=start * batch_size,
        rows=range(rank * num_rows, (rank + 1) * num_rows),
    )  # fmt: skip
    assert batches(numbers) == [_one_at_a_time(batches, number) for number in numbers]


@given(first=st.integers(0, 1000), stride=st.integers(1, 5), jump=st.integers(0, 100), size=st.sampled_from([64, 4096]))
@settings(max_examples=30, deadline=None)
def test_a_plan_gives_the_batch_of_the_number_and_looks_up_few_times(first, stride, jump, size):
    asked = []
    plan = Plan(lambda numbers: asked.append(numbers) or [[number] * size for number in numbers])
    numbers = [
        *range(first, first + 50 * stride, stride),
        *range(first + jump, first + jump + 10 * stride, stride),
    ]
    assert [plan(number, stride)[0] for number in numbers] == numbers
    few = {64: 4, 4096: 60}[size]
    assert len(asked) <= few
    assert max(len(numbers) * size for numbers in asked) <= 4096
