from __future__ import annotations

import itertools
import json
from collections import Counter
from functools import partial

import numpy as np
import pytest

from diffusion_train.data.order.order import Order, Window
from diffusion_train.data.order.order_spec import OrderSpec
from diffusion_train.data.order.resolution import AspectRatios

WIDE, SQUARE = (100, 50), (50, 50)


def _arrange(sources, sizes=None, **options):
    order_spec = OrderSpec(partial(Order, seed=3, block_size=4, window=3), image_size=512, **options)
    return order_spec("data", sources, None if sizes is None else np.array(sizes))


def _samples(order, batch_size, num_steps):
    steps = [order.indices(step * batch_size, batch_size) for step in range(num_steps)]
    return Counter(draw.sample for draw in itertools.chain(*steps))


def test_one_source_without_buckets_is_a_plain_order():
    assert _arrange({"all": 100}).indices(7, 50) == Order(3, "data", 100, 4, 3).indices(7, 50)


def test_sources_are_numbered_one_after_the_other_and_mixed():
    counts = _samples(_arrange({"a": 30, "b": 10}, repeats={"b": 3}), 6, 10)
    assert counts == Counter(dict.fromkeys(range(30), 1) | dict.fromkeys(range(30, 40), 3))


def test_groups_of_equal_size_are_shuffled_apart():
    sizes = [WIDE, SQUARE] * 60
    order = _arrange({"a": 60, "b": 60}, sizes, ratios=AspectRatios(2))
    walks = [source.order.at(np.arange(30))[1].tolist() for mix in order.draws for source in mix.sources]
    assert len({tuple(walk) for walk in walks}) == 4


def test_weights_hold_in_each_bucket():
    """A source has the same repeats in all buckets, so that its samples are equals."""
    sizes = [WIDE] * 20 + [SQUARE] * 40 + [WIDE] * 40
    order = _arrange({"a": 60, "b": 40}, sizes, weights={"a": 3, "b": 1}, ratios=AspectRatios(2))
    counts = _samples(order, 5, 20 * 40)
    assert np.array([counts[sample] for sample in range(60)]) == pytest.approx(40 * 75 / 60, abs=2)
    assert np.array([counts[sample] for sample in range(60, 100)]) == pytest.approx(40 * 25 / 40, abs=2)


def test_each_sample_is_in_the_bucket_of_its_aspect_ratio():
    sizes = [WIDE, SQUARE, (640, 384), (384, 640), (60, 50)]
    order = _arrange({"a": 3, "b": 2}, sizes, ratios=AspectRatios(2))
    shapes = {draw.sample: draw.shape for step in range(50) for draw in order.indices(step * 2, 2)}
    assert shapes == {0: (384, 640), 1: (512, 512), 2: (384, 640), 3: (640, 384), 4: (448, 576)}
    assert [(line.shape, line.num_samples) for line in order.occupancy(2)] == [
        ((384, 640), 2), ((448, 576), 1), ((512, 512), 1), ((640, 384), 1),
    ]  # fmt: skip


def test_settings_name_all_that_decides_the_order():
    plain = partial(Order, seed=3, block_size=4, window=3)
    others = [{}, {"repeats": {"a": 2}}, {"weights": {"a": 2, "b": 3}}, {"ratios": AspectRatios(2), "image_size": 512}]
    told = [OrderSpec(plain, **other).description for other in others]
    assert len(set(told)) == len(others)
    assert told[1] == "block_size=4, window=3, num_lanes=1; repeats={'a': 2}"
    assert OrderSpec(plain, image_size=512).description == told[0]


@pytest.mark.parametrize("shares", [{"repeats": {"a": 2.5}}, {"weights": {"a": 2, "b": 3}}], ids=["repeats", "weights"])
def test_an_arrangement_is_made_again_of_its_settings(shares):
    given = OrderSpec(partial(Order, seed=3, num_lanes=2), **shares, ratios=AspectRatios(2), image_size=512)
    again = OrderSpec.of(json.loads(json.dumps(given.settings)))
    assert again.settings == given.settings
    facts = ("data", {"a": 8, "b": 8}, np.array([WIDE, SQUARE] * 8))
    walks = [[order(*facts).indices(4 * step, 4) for step in range(20)] for order in (given, again)]
    assert walks[0] == walks[1]


def test_buckets_need_known_sizes():
    with pytest.raises(
        ValueError, match=r"data\.buckets\.max_ratio: must be 1, because this data set has no images of known sizes"
    ):
        _arrange({"all": 5}, ratios=AspectRatios(2))


def test_windows_are_those_of_every_sequence_and_how_far_apart_its_samples_lie():
    assert _arrange({"all": 100}).windows() == [Window(12)]
    assert _arrange({"all": 5}).windows() == [Window(5)]
    assert _arrange({"a": 60, "b": 40}).windows() == [Window(12), Window(12)]
    sizes = [WIDE, SQUARE, SQUARE, SQUARE] * 10
    wide, square = sorted(_arrange({"all": 40}, sizes, ratios=AspectRatios(2)).windows(), key=lambda w: -w.stretch)
    assert wide == Window(10, 37 / 10)
    assert square == Window(12, 39 / 30)
    assert Order(0, "data", 1000, 4, 3, num_lanes=2).windows() == [Window(24)]
