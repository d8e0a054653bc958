"""What the order of samples costs and how well it shuffles, at the scale of a billion samples. Needs no data.

    python benchmarks/order.py

Planning: a rank's share of one global batch at a random position. Fetched: whole blocks that a node reads through a
cache that drops what was not used for longest, against its share of the data. Shuffle: batches of 256 from 1,000,000
samples sorted by class, 1,000 a class, in shards of 10,000; a buffer is webdataset's, over shuffled shards read one
after the other.
"""

from __future__ import annotations

import argparse
import random
import time
import tracemalloc
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from diffusion_train.data.order.buckets import Buckets
from diffusion_train.data.order.mixture import Mix
from diffusion_train.data.order.order import Draws, Order, Subset
from diffusion_train.data.order.resolution import AspectRatios

I64 = NDArray[np.int64]
NUM_SAMPLES, NUM_NODES, NUM_RANKS, BATCH_SIZE = 10**9, 128, 1024, 8192


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args(arguments)
    order = Order(0, "data", NUM_SAMPLES, num_lanes=NUM_NODES)
    print(f"{NUM_SAMPLES:,} samples, {NUM_RANKS:,} ranks on {NUM_NODES} nodes, batches of {BATCH_SIZE:,}")
    for name, draws in {"one order": order, "mix of 4": mix_of(4), "17 buckets": buckets()}.items():
        milliseconds, megabytes = planning(draws, BATCH_SIZE, BATCH_SIZE // NUM_RANKS)
        print(f"{name:>16}: {milliseconds:.2f} ms and {megabytes:.2f} MB for a rank's share of a batch")
    milliseconds, _ = planning(Order(0, "data", NUM_SAMPLES), 4096, 4096)
    print(f"{'one rank':>16}: {milliseconds:.2f} ms for a whole batch of 4,096")
    for windows, skew in ((1, 1), (1, 256), (2, 256), (2, 4096)):
        ratio = fetched(order, lane=17, epoch=3, windows=windows, skew=skew)
        turns = "in turn" if skew == 1 else f"out of turn by up to {skew:,}"
        print(
            f"{'a node fetches':>16}: {ratio:.4f} of its share of an epoch, "
            f"cache of {windows} window(s), samples {turns}"
        )
    print(f"{'exactly once':>16}: {whole_windows(order, 100):,} samples in 100 windows of whole blocks")
    print(f"\n{'':>24} largest autocorrelation, lag 1-64   classes in a batch   blocks in a batch")
    for name, samples in shuffles().items():
        correlation, classes, blocks = quality(samples, 256)
        print(f"{name:>24} {correlation:34.3f} {classes:20.1f} {blocks:19.1f}")


def planning(draws: Draws | Buckets, batch_size: int, share: int, calls: int = 200) -> tuple[float, float]:
    """(median milliseconds of CPU time a call, MB at the peak) for places of one rank at random positions."""
    steps = np.random.default_rng(0).integers(0, 10**7, calls).tolist()
    seconds = []
    tracemalloc.start()
    draws.indices(0, batch_size, range(share))
    megabytes = tracemalloc.get_traced_memory()[1] / 1e6
    tracemalloc.stop()
    for step in steps:
        start = time.process_time()
        draws.indices(step * batch_size, batch_size, range(share))
        seconds.append(time.process_time() - start)
    return 1e3 * float(np.median(seconds)), megabytes


def mix_of(num_sources: int) -> Mix:
    size = NUM_SAMPLES // num_sources
    sources: list[Draws] = [
        Subset(Order(0, f"{number}", size, num_lanes=NUM_NODES), range(number * size, (number + 1) * size))
        for number in range(num_sources)
    ]
    return Mix(sources, [Fraction(number + 1, 2) for number in range(num_sources)])


def buckets() -> Buckets:
    shapes = AspectRatios(4, 64).shapes(1024)
    size = NUM_SAMPLES // len(shapes)
    return Buckets([(shape, Order(0, str(shape), size, num_lanes=NUM_NODES)) for shape in shapes])


def fetched(order: Order, lane: int, epoch: int, windows: int, skew: int, num_samples: int | None = None) -> float:
    """Samples in the blocks fetched by a lane's node, a sample it draws; of an epoch's first draws or all of them.

    `skew`: workers run ahead of one another, so that samples come out of turn within so many.
    """
    begin, end = epoch * order.num_samples, (epoch + 1) * order.num_samples
    position = np.arange(begin + (lane - begin) % order.num_lanes, end, order.num_lanes)[:num_samples]
    turn = np.arange(len(position)) + np.random.default_rng(0).uniform(0, skew, len(position))
    position = position[np.argsort(turn)]
    parts = np.array_split(position, len(position) // 2**16 + 1)
    blocks = (block for part in parts for block in (order.at(part)[1] // order.block_size).tolist())
    return misses(blocks, windows * order.window) * order.block_size / len(position)


def misses(items: Iterable[int], capacity: int) -> int:
    """How often something is not in a cache that drops what was not used for longest."""
    cache: OrderedDict[int, None] = OrderedDict()
    missed = 0
    for item in items:
        if item in cache:
            cache.move_to_end(item)
            continue
        missed += 1
        cache[item] = None
        if len(cache) > capacity:
            cache.popitem(last=False)
    return missed


def whole_windows(order: Order, count: int) -> int:
    """Samples in randomly chosen windows of an epoch, each of which is seen to be whole blocks,
    no block in two windows.
    """
    size = order.window * order.block_size
    seen: set[int] = set()
    chosen = random.Random(0).sample(range(1, order.num_samples // size - 1), count)
    for window in chosen:
        samples = np.sort(order.sequence(5, np.arange(window * size, (window + 1) * size)))
        blocks = samples[:: order.block_size] // order.block_size
        assert (samples == (blocks[:, None] * order.block_size + np.arange(order.block_size)).ravel()).all()
        assert seen.isdisjoint(blocks.tolist())
        seen.update(blocks.tolist())
    return len(seen) * order.block_size


def shuffles(num_samples: int = 10**6, num_draws: int = 2**17) -> dict[str, I64]:
    """Sequences of samples (num_draws,) of several ways to shuffle."""
    rng = np.random.default_rng(0)
    batches = range(0, num_draws, 256)
    return {
        "full shuffle": rng.permutation(num_samples)[:num_draws],
        **{
            f"ours, {lanes} lane(s)": np.array(
                [draw.sample for start in batches for draw in order.indices(start, 256)], np.int64
            )
            for lanes in (1, 8)
            for order in [Order(0, "data", num_samples, num_lanes=lanes)]
        },
        **{
            f"buffer of {size:,}": np.fromiter(buffered(num_samples, 10_000, size), np.int64, num_draws)
            for size in (1_000, 10_000)
        },
    }


def buffered(num_samples: int, shard_size: int, buffer_size: int, seed: int = 0) -> Iterator[int]:
    """Shards in random order, read through a buffer from which a random sample is taken."""
    rng = random.Random(seed)
    buffer: list[int] = []
    for shard in rng.sample(range(num_samples // shard_size), num_samples // shard_size):
        for sample in range(shard * shard_size, (shard + 1) * shard_size):
            buffer.append(sample)
            if len(buffer) >= buffer_size:
                place = rng.randrange(len(buffer))
                buffer[place], buffer[-1] = buffer[-1], buffer[place]
                yield buffer.pop()


def quality(samples: I64, batch_size: int, class_size: int = 1000, block_size: int = 64) -> tuple[float, float, float]:
    """(largest autocorrelation of the samples' numbers, mean number of classes and of blocks in a batch)"""
    centred = samples - samples.mean()
    lags = [float((centred[:-lag] * centred[lag:]).mean() / (centred**2).mean()) for lag in range(1, 65)]
    batches = np.sort(samples[: len(samples) // batch_size * batch_size].reshape(-1, batch_size), axis=1)
    classes, blocks = (
        float(1 + (np.diff(batches // size, axis=1) > 0).sum(axis=1).mean()) for size in (class_size, block_size)
    )
    return max(lags, key=abs), classes, blocks


if __name__ == "__main__":
    main()
