"""A billion samples in 100,000 shards over 1,024 ranks on 128 nodes: the figures of benchmarks/order.py, bounded."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from diffusion_train.data.order.order import Order

NUM_SAMPLES, NUM_NODES, NUM_RANKS, BATCH_SIZE = 10**9, 128, 1024, 8192


@pytest.fixture(scope="module")
def order_benchmark():
    path = Path(__file__).parents[3] / "benchmarks" / "order.py"
    spec = importlib.util.spec_from_file_location("benchmark_order", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def order():
    return Order(0, "data", NUM_SAMPLES, num_lanes=NUM_NODES)


def test_a_rank_plans_its_share_in_a_millisecond_and_100_mb(order_benchmark, order):
    milliseconds, megabytes = order_benchmark.planning(order, BATCH_SIZE, BATCH_SIZE // NUM_RANKS)
    assert milliseconds < 1
    assert megabytes < 100


@pytest.mark.parametrize("name", ["mix_of_4", "buckets"])
def test_mixes_and_buckets_plan_in_a_few_milliseconds(order_benchmark, name):
    draws = order_benchmark.mix_of(4) if name == "mix_of_4" else order_benchmark.buckets()
    milliseconds, megabytes = order_benchmark.planning(draws, BATCH_SIZE, BATCH_SIZE // NUM_RANKS)
    assert milliseconds < 5
    assert megabytes < 100


def test_a_node_fetches_its_share_of_the_bytes_once(order_benchmark, order):
    """A stretch of 30 windows, its torn first window included."""
    stretch = 30 * order.window * order.block_size
    assert order_benchmark.fetched(order, 17, 3, windows=1, skew=1, num_samples=stretch) < 1.1
    assert order_benchmark.fetched(order, 17, 3, windows=2, skew=4096, num_samples=stretch) < 1.1


def test_every_sample_of_a_billion_comes_once(order_benchmark, order):
    """In random windows, each of whole blocks of its own; a scaled-down copy is counted through."""
    assert order_benchmark.whole_windows(order, 20) == 20 * order.window * order.block_size
    small = Order(0, "data", NUM_SAMPLES // 1000 + 7, num_lanes=NUM_NODES)
    for epoch in (0, 999):
        position = np.arange(epoch * small.num_samples, (epoch + 1) * small.num_samples)
        epochs, samples = small.at(position)
        assert (epochs == epoch).all()
        assert (np.bincount(samples) == 1).all()


def test_lanes_cut_a_billion_samples_into_pieces(order):
    """Each of 128 nodes draws from a stretch of the epoch's shuffled sequence that ends where the next begins."""
    n = order.num_samples
    first = 5 * n + (np.arange(NUM_NODES) - 5 * n) % NUM_NODES
    last = 6 * n - 1 - (6 * n - 1 - np.arange(NUM_NODES)) % NUM_NODES
    slots = (last - first) // NUM_NODES + 1
    starts = np.cumsum(slots) - slots
    assert slots.sum() == n
    assert order.at(first)[1].tolist() == order.sequence(5, starts).tolist()
    assert order.at(last)[1].tolist() == order.sequence(5, starts + slots - 1).tolist()


def test_batches_are_nearly_as_mixed_as_in_a_full_shuffle(order_benchmark):
    """1,000,000 samples sorted by class: neighbours are uncorrelated,
    and a batch of 256 holds most classes it could.
    """
    figures = {name: order_benchmark.quality(samples, 256) for name, samples in order_benchmark.shuffles().items()}
    correlation, classes, blocks = zip(*figures.values(), strict=True)
    full, one_lane, eight_lanes, small_buffer, large_buffer = range(len(figures))
    assert max(map(abs, correlation[full : eight_lanes + 1])) < 0.02
    assert correlation[small_buffer] > correlation[large_buffer] > 0.2
    assert classes[eight_lanes] > 0.93 * classes[full]
    assert classes[one_lane] > max(0.6 * classes[full], 4 * classes[large_buffer])
    assert blocks[one_lane] > 0.6 * blocks[full]
    # a window holds 256 of the blocks: 256 draws from them hit this many different ones
    assert blocks[one_lane] == pytest.approx(256 * (1 - (1 - 1 / 256) ** 256), rel=0.02)
