from __future__ import annotations

import itertools
import time
import tracemalloc

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from diffusion_train.data.order.order import Draw, Order, Subset
from diffusion_train.data.order.permutation import permute

sizes = st.integers(1, 3000)


def _u64(values):
    return np.asarray(values, np.uint64)


@given(size=sizes, key=st.integers(0, 2**64 - 1))
@example(size=1, key=0)
@example(size=4, key=1)
@example(size=1025, key=2)
@settings(max_examples=60, deadline=None)
def test_a_permutation_is_a_bijection_and_its_inverse_undoes_it(size, key):
    numbers, full = np.arange(size), _u64(np.full(size, size))
    keys = _u64(np.full(size, key, np.uint64))
    out = permute(_u64(numbers), full, keys)
    assert sorted(out.tolist()) == numbers.tolist()
    assert permute(out, full, keys, inverse=True).tolist() == numbers.tolist()


@given(
    n=sizes,
    block=st.integers(1, 400),
    window=st.integers(1, 20),
    lanes=st.integers(1, 9),
    epoch=st.integers(0, 3),
    seed=st.integers(0, 2**40),
)
@example(n=1, block=64, window=256, lanes=3, epoch=0, seed=0)
@example(n=65, block=64, window=1, lanes=1, epoch=1, seed=0)
@settings(max_examples=80, deadline=None)
def test_every_epoch_holds_every_sample_once(n, block, window, lanes, epoch, seed):
    order = Order(seed, "data", n, block, window, lanes)
    draws = order.indices(0, -(-(epoch + 1) * n // lanes) * lanes)
    assert sorted(draw.sample for draw in draws if draw.epoch == epoch) == list(range(n))


@given(n=st.integers(1, 300), lanes=st.integers(1, 6), rows=st.integers(1, 5), ranks=st.sampled_from([1, 2, 3, 4]))
@settings(max_examples=30, deadline=None)
def test_shares_of_any_number_of_ranks_make_up_the_batch(n, lanes, rows, ranks):
    batch_size = lanes * rows * ranks
    order = Order(3, "data", n, 16, 2, lanes)
    share = batch_size // ranks
    for position in (batch_size, 10**6 * batch_size):
        places = [range(rank * share, (rank + 1) * share) for rank in range(ranks)]
        shares = [order.indices(position, batch_size, mine) for mine in places]
        assert list(itertools.chain(*shares)) == order.indices(position, batch_size)


@given(n=st.integers(1, 200), batch_size=st.integers(10, 40))
@settings(max_examples=25, deadline=None)
def test_one_lane_walks_through_one_epoch_after_the_other(n, batch_size):
    order = Order(0, "data", n, 8, 3)
    starts = range(0, 2 * n + 1, batch_size)
    stream = [draw for start in starts for draw in order.indices(start, batch_size)]
    expected = [Draw(epoch, int(sample)) for epoch in range(3) for sample in order.sequence(epoch, np.arange(n))]
    assert stream[: 2 * n] == expected[: 2 * n]


@given(
    n=st.integers(1, 300),
    lanes=st.integers(1, 6),
    sizes=st.lists(st.integers(1, 8), min_size=1, max_size=6),
    block=st.integers(1, 40),
    window=st.integers(1, 9),
)
@settings(max_examples=60, deadline=None)
def test_a_position_holds_the_same_samples_however_it_was_reached(n, lanes, sizes, block, window):
    """Batches of any sizes, one after the other: each lane gets what it gets in one batch of their sum."""
    order = Order(1, "data", n, block, window, lanes)
    starts = [lanes * start for start in itertools.accumulate(sizes, initial=7)]
    steps = [order.indices(start, lanes * size) for start, size in zip(starts, sizes, strict=False)]
    whole = order.indices(starts[0], starts[-1] - starts[0])
    for lane in range(lanes):
        walked = [draw for step, size in zip(steps, sizes, strict=True) for draw in step[lane * size :][:size]]
        assert walked == whole[lane * sum(sizes) :][: sum(sizes)]


@given(n=st.integers(1, 400), lanes=st.integers(1, 9), epoch=st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_lanes_share_an_epoch_evenly_and_cut_it_into_pieces(n, lanes, epoch):
    order = Order(1, "data", n, 8, 3, lanes)
    position = np.arange(epoch * n, (epoch + 1) * n)
    epochs, samples = order.at(position)
    pieces = [samples[position % lanes == lane] for lane in range(lanes)]
    assert set(epochs.tolist()) == {epoch}
    assert max(map(len, pieces)) - min(map(len, pieces)) <= 1
    assert np.concatenate(pieces).tolist() == order.sequence(epoch, np.arange(n)).tolist()


def test_fewer_shards_than_ranks_times_workers():
    """Samples are dealt out, not shards: one shard of 10 samples keeps 8 ranks equally busy."""
    order = Order(0, "data", 10, num_lanes=8)
    steps = [order.indices(position, 8, [rank]) for rank in range(8) for position in range(0, 40, 8)]
    assert all(len(draws) == 1 for draws in steps)
    assert sorted(draw.sample for [draw] in steps) == sorted([*range(10)] * 4)


def test_fewer_samples_than_one_global_batch():
    """The order wraps; the data module refuses, unless the user asks for less."""
    draws = Order(0, "data", 3).indices(0, 8)
    assert [draw.epoch for draw in draws] == [0, 0, 0, 1, 1, 1, 2, 2]
    assert sorted(draw.sample for draw in draws[3:6]) == [0, 1, 2]


def test_a_subset_draws_its_samples_in_the_order_of_their_numbers_places():
    chosen = np.array([3, 5, 8, 13, 21, 34], np.uint8)
    order = Order(0, "data", 6, 2, 2)
    expected = [(draw.epoch, int(chosen[draw.sample]), None) for draw in order.indices(4, 10)]
    assert Subset(order, chosen).indices(4, 10) == expected
    assert [draw.sample for draw in Subset(order, range(10, 16)).indices(0, 6)] == [
        10 + draw.sample for draw in order.indices(0, 6)
    ]


@pytest.mark.parametrize("lanes", [2, 4])
def test_a_lane_keeps_to_its_piece_of_an_epoch(lanes):
    n, batch_size = 4096, 64
    order = Order(0, "data", n, 16, 8, lanes)
    piece = order.sequence(0, np.arange(n)).reshape(lanes, -1)
    seen = [order.indices(start, batch_size) for start in range(0, n, batch_size)]
    for lane in range(lanes):
        rows = slice(lane * batch_size // lanes, (lane + 1) * batch_size // lanes)
        assert [draw.sample for draws in seen for draw in draws[rows]] == piece[lane].tolist()


def test_order_depends_on_seed_epoch_and_data_alone():
    def sequence(seed=0, fingerprint="a", epoch=0):
        return tuple(Order(seed, fingerprint, 500).sequence(epoch, np.arange(500)))

    assert sequence() == sequence()
    assert len({sequence(), sequence(seed=1), sequence(fingerprint="b"), sequence(epoch=1)}) == 4


def test_reads_stay_within_a_window_of_blocks():
    order = Order(0, "data", 100_000, block_size=50, window=10)
    samples = order.sequence(0, np.arange(100_000))
    for start in (0, 5_000, 50_000):
        assert (
            len(set(samples[start : start + 500] // 50)) <= 11
        )  # 10, and one more where the short block shifts the edge


def test_neighbours_are_uncorrelated_within_a_window():
    n = 16_384
    samples = Order(0, "data", n).sequence(0, np.arange(n)).astype(float)
    for series in (samples[:-1], np.arange(n - 1)):
        assert abs(np.corrcoef(series, samples[1:])[0, 1]) < 4 / np.sqrt(n)


def test_any_position_of_a_billion_samples_costs_little_time_and_memory():
    order = Order(0, "data", 10**9 + 7, num_lanes=128)
    order.indices(0, 1024)
    tracemalloc.start()
    start = time.perf_counter()
    draws = [order.indices(step * 1024, 1024, range(8)) for step in (1, 10**6, 10**9, 10**12)]
    seconds = time.perf_counter() - start
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert all(0 <= draw.sample < 10**9 + 7 for batch in draws for draw in batch)
    assert seconds < 1
    assert peak < 1 << 20


def test_the_order_of_a_seed_never_changes():
    """Runs of earlier versions go on with the samples they would have had."""
    assert [draw[:2] for draw in Order(1, "data", 10, 3, 2).indices(0, 12)] == REMEMBERED


# fmt: off
REMEMBERED = [
    (0, 7), (0, 0), (0, 6), (0, 2), (0, 8), (0, 1), (0, 5), (0, 4), (0, 3), (0, 9), (1, 9), (1, 6),
]
# fmt: on


@pytest.mark.parametrize("setting", ["num_samples", "block_size", "window", "num_lanes"])
def test_impossible_settings_are_refused(setting):
    settings = {"num_samples": 10, "block_size": 2, "window": 2, "num_lanes": 1} | {setting: 0}
    with pytest.raises(ValueError, match=f"{setting}=0"):
        Order(0, "data", **settings)


def test_batches_that_lanes_do_not_divide_are_refused():
    with pytest.raises(ValueError, match=r"batch_size=10 .* not divisible by num_lanes=4"):
        Order(0, "data", 100, num_lanes=4).indices(0, 10)
