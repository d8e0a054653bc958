"""Samples a second, memory and resume time of our data path against other libraries, on the same JPEGs.

    pip install litdata mosaicml-streaming megatron-energon    # those of them that are to be compared
    python benchmarks/data.py

Each figure is of a process of its own, without workers, files in the page cache, shuffled; speeds are the median of five
passes. Raw: the bytes of the JPEG and the caption's text, ours with every checksum compared; of 384 px (30 KB) and of
64 px (2 KB). Decoded: batches of 64 as float tensors of 256 px; all go through our decoding, transform and collation.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from data_peers import BATCH_SIZE, PEERS, Peer, Sample
from PIL import Image

from diffusion_train.data.arrangement import Arrangement
from diffusion_train.data.collate import collate
from diffusion_train.data.dataset import ShardDataset
from diffusion_train.data.module import DataModule
from diffusion_train.data.order import Draw, Order
from diffusion_train.data.shards import write_shards
from diffusion_train.data.transform import ImageTransform
from diffusion_train.data.view import View

NUM_SAMPLES, FAR = 4000, 10_000_000
FOLDERS = {"large": (384, 10), "small": (64, 10), "many": (384, 1000)}  # pixels, shards


class Raw(View):
    """The bytes as they are."""

    def __call__(self, image: bytes, *_: Any) -> dict[str, Any]:
        return {"image": image}


class Ours(Peer):
    module = "diffusion_train"

    def __init__(self, urls: list[str], folder: Path) -> None:
        self.data = module(urls, Raw)

    def samples(self) -> Iterator[Sample]:
        """All that a batch of training goes through, but for collation."""
        reads = self.data.train_dataloader().dataset
        for number in itertools.count():
            yield from ((sample["image"], sample["caption"]) for sample in reads.__getitems__([number]))

    def state(self, count: int) -> int:
        return count

    def restore(self, state: int) -> None:
        self.data.go_on(0, state)


LIBRARIES = {"ours": Ours, **PEERS}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", nargs="*", default=[*LIBRARIES], choices=[*LIBRARIES])
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)  # what, library, folder: in a process of its own
    options = parser.parse_args(arguments)
    if options.one:
        what, name, folder = options.one
        print(json.dumps(MEASURES[what](name, Path(folder))))
        return
    with tempfile.TemporaryDirectory() as folder:
        os.environ["DIFFUSION_TRAIN_CACHE"] = f"{folder}/cache"
        make(Path(folder))
        print("| samples/s (times webdataset's) | raw, 30 KB | raw, 2 KB | decoded | MB, 10 shards, 1,000 | resume |")
        print("|---|---|---|---|---|---|")
        marks = [measured(*wanted, "webdataset", Path(folder)) for wanted in SPEEDS]
        for name in options.peers:
            print(f"| {name} | " + " | ".join(row(name, Path(folder), marks)) + " |", flush=True)


SPEEDS = [("raw", "large"), ("raw", "small"), ("decoded", "large")]


def row(name: str, folder: Path, marks: Sequence[float]) -> list[str]:
    library = LIBRARIES[name]
    imported = [sys.executable, "-c", f"import {library.module}"]
    if subprocess.run(imported, capture_output=True, check=False).returncode:
        return ["cannot be imported here"]
    figures = [measured(*wanted, name, folder) for wanted in SPEEDS]
    speeds = [f"{figure:,.0f} ({figure / mark:.2f})" for figure, mark in zip(figures, marks, strict=True)]
    memory = "own format" if library.has_own_format else of_each("memory", ["large", "many"], name, folder, ".0f")
    if not library.state:
        return [*speeds, memory, "cannot"]
    places = {"near": "10", "on": "3,000", **({"far": "10 million"} if name == "ours" else {})}
    times = [f"{measured(what, 'large', name, folder):.2f} s at {place}" for what, place in places.items()]
    return [*speeds, memory, ", ".join(times)]


def of_each(what: str, folders: Sequence[str], name: str, folder: Path, form: str) -> str:
    return ", ".join(f"{measured(what, part, name, folder):{form}}" for part in folders)


def measured(what: str, part: str, name: str, folder: Path) -> float:
    command = [sys.executable, __file__, "--one", what, name, str(folder / part)]
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])


def make(folder: Path) -> None:
    """The same samples in 10 and in 1,000 shards, and small ones."""
    for name, (side, num_shards) in FOLDERS.items():
        images = [photo(number, side) for number in range(200)]
        samples = (
            {"__key__": f"{number:06d}", "jpg": images[number % 200], "txt": f"caption {number}"}
            for number in range(NUM_SAMPLES)
        )
        write_shards(samples, folder / name, "part", NUM_SAMPLES // num_shards)


def photo(number: int, side: int) -> bytes:
    """Smooth shapes with some grain."""
    rng = np.random.default_rng(number)
    coarse = Image.fromarray(rng.integers(0, 256, (24, 24, 3), dtype=np.uint8)).resize(
        (side, side), Image.Resampling.BICUBIC
    )
    grain = rng.normal(0, 6, (side, side, 1))
    out = io.BytesIO()
    Image.fromarray(np.clip(np.asarray(coarse) + grain, 0, 255).astype(np.uint8)).save(out, "jpeg", quality=85)
    return out.getvalue()


def opened(name: str, folder: Path) -> Peer:
    return LIBRARIES[name](sorted(map(str, folder.glob("*.tar"))), folder.with_name(f"{folder.name}-{name}"))


def module(urls: list[str], view: type[View]) -> DataModule:
    dataset = ShardDataset(urls, view(ImageTransform(256)))
    return DataModule(dataset, Arrangement(lambda **facts: Order(0, **facts)), BATCH_SIZE)


def batches(samples: Iterator[Sample]) -> Iterator[dict[str, Any]]:
    """Decoded by us, as a batch of training."""
    view, number = View(ImageTransform(256)), 0
    while group := list(islice(samples, BATCH_SIZE)):
        numbered = enumerate(group, number)
        made = [{**view(jpg, Draw(0, n), text, {}, None), "caption": text, "index": n} for n, (jpg, text) in numbered]
        number += len(group)
        yield collate(made)


def raw(name: str, folder: Path) -> float:
    peer = opened(name, folder)
    return rate(lambda: sum(1 for _ in islice(peer.samples(), NUM_SAMPLES)), NUM_SAMPLES)


def decoded(name: str, folder: Path) -> float:
    count = NUM_SAMPLES // 4 // BATCH_SIZE
    if name == "ours":
        data = module(sorted(map(str, folder.glob("*.tar"))), View)
        loader = data.train_dataloader()
        return rate(
            lambda: sum(1 for batch in islice(loader, count) if data.on_after_batch_transfer(batch, 0)),
            count,
        ) * BATCH_SIZE  # fmt: skip
    peer = opened(name, folder)
    return rate(lambda: sum(1 for _ in islice(batches(peer.samples()), count)), count) * BATCH_SIZE


def rate(pass_over: Callable[[], int], count: int) -> float:
    pass_over()
    rates = []
    for _ in range(5):
        start = time.perf_counter()
        assert pass_over() == count
        rates.append(count / (time.perf_counter() - start))
    return statistics.median(rates)


def memory(name: str, folder: Path) -> float:
    assert sum(1 for _ in islice(opened(name, folder).samples(), 1000)) == 1000
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


def resume(name: str, folder: Path, count: int) -> float:
    """From nothing but the addresses and the saved state to the first batch, decoded."""
    peer = opened(name, folder)
    assert peer.state
    state = peer.state(count)
    del peer
    start = time.perf_counter()
    peer = opened(name, folder)
    peer.restore(state)
    next(batches(peer.samples()))
    return time.perf_counter() - start


MEASURES: dict[str, Callable[[str, Path], float]] = {
    "raw": raw,
    "decoded": decoded,
    "memory": memory,
    "near": lambda name, folder: resume(name, folder, 10),
    "on": lambda name, folder: resume(name, folder, 3000),
    "far": lambda name, folder: resume(name, folder, FAR),
}

if __name__ == "__main__":
    main()
