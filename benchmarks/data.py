"""Samples a second, memory and resume time of our data path against other libraries, on the same JPEGs.

    pip install litdata mosaicml-streaming megatron-energon    # those of them that are to be compared
    python benchmarks/data.py

Each figure is of a process of its own, without workers, files in the page cache, shuffled; speeds are the median of
five passes, each library's in turn and that for `--rounds`: the median of these, and of the ratios within each round.
Raw: the bytes of the JPEG and the caption's text, ours with every checksum compared; of 384 px (43 KB) and of 64 px
(3 KB). Decoded: batches of 64 as float tensors of 256 px, all libraries' by our decoding, transform and collation; and
others' by Pillow's decoding and resizing, as torchvision's transforms do it.
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
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from data_peers import BATCH_SIZE, PEERS, Peer, Sample
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from diffusion_train.data.datamodule import DataModule
from diffusion_train.data.dataset import ShardDataset
from diffusion_train.data.image.collate import collate
from diffusion_train.data.image.preprocess import Preprocess
from diffusion_train.data.image.transform import ImageTransform
from diffusion_train.data.order.order import Draw, Order
from diffusion_train.data.order.order_spec import OrderSpec
from diffusion_train.data.shard.writer import write_shards

NUM_SAMPLES, FAR, MARK = 4000, 10_000_000, "webdataset"
FOLDERS = {"large": (384, 10), "small": (64, 10), "many": (384, 1000)}  # pixels, shards


class Raw(Preprocess):
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
        self.data.seek(0, state)


LIBRARIES = {"ours": Ours, **PEERS}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", nargs="*", default=[*LIBRARIES], choices=[*LIBRARIES])
    parser.add_argument("--rounds", type=int, default=3, help="of the speeds")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)  # what, library, folder: in a process of its own
    options = parser.parse_args(arguments)
    if options.one:
        what, name, folder = options.one
        print(json.dumps(MEASURES[what](name, Path(folder))))
        return
    with tempfile.TemporaryDirectory() as folder:
        os.environ["DIFFUSION_TRAIN_CACHE"] = f"{folder}/cache"
        make(Path(folder))
        there = [name for name in options.peers if importable(LIBRARIES[name].module)]
        rounds = [{name: speeds(name, Path(folder)) for name in there} for _ in tqdm(range(options.rounds), "rounds")]
        columns = ["raw, 43 KB", "raw, 3 KB", "decoded by us", "by Pillow", "MB, 10 shards, 1,000", "resume"]
        print(f"| samples/s (times webdataset's) | {' | '.join(columns)} |\n|---|---|---|---|---|---|---|")
        for name in there:
            print(f"| {name} | " + " | ".join(row(name, Path(folder), rounds)) + " |", flush=True)


SPEEDS = [("raw", "large"), ("raw", "small"), ("decoded", "large"), ("pillow", "large")]


def importable(module: str) -> bool:
    found = not subprocess.run([sys.executable, "-c", f"import {module}"], capture_output=True, check=False).returncode
    if not found:
        print(f"{module}: cannot be imported here", file=sys.stderr)
    return found


def speeds(name: str, folder: Path) -> NDArray[np.float64]:
    """NaN for what it is not measured in."""
    wanted = [(what, part) for what, part in SPEEDS if (what, name) != ("pillow", "ours")]
    return np.array([measured(what, part, name, folder) if (what, part) in wanted else np.nan for what, part in SPEEDS])


def row(name: str, folder: Path, rounds: Sequence[Mapping[str, NDArray[np.float64]]]) -> list[str]:
    library = LIBRARIES[name]
    figures = [f"{figure:,.0f}" for figure in np.median([found[name] for found in rounds], 0)]
    if MARK in rounds[0]:
        ratios = np.median([found[name] / found[MARK] for found in rounds], 0)
        figures = [f"{figure} ({ratio:.2f})" for figure, ratio in zip(figures, ratios, strict=True)]
    figures = ["" if figure.startswith("nan") else figure for figure in figures]
    memory = "own format" if library.has_own_format else of_each("memory", ["large", "many"], name, folder, ".0f")
    if not library.state:
        return [*figures, memory, "cannot"]
    places = {"near": "10", "on": "3,000", **({"far": "10 million"} if name == "ours" else {})}
    times = [f"{measured(what, 'large', name, folder):.2f} s at {place}" for what, place in places.items()]
    return [*figures, memory, ", ".join(times)]


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


def module(urls: list[str], preprocess: type[Preprocess]) -> DataModule:
    dataset = ShardDataset(urls, preprocess(ImageTransform(256)))
    return DataModule(dataset, OrderSpec(lambda **facts: Order(0, **facts)), BATCH_SIZE)


def by_us(samples: Iterator[Sample]) -> Iterator[dict[str, Any]]:
    """As a batch of training."""
    preprocess, number = Preprocess(ImageTransform(256)), 0
    while group := list(islice(samples, BATCH_SIZE)):
        numbered = enumerate(group, number)
        made = [
            {**preprocess(jpg, Draw(0, n), text, {}, None), "caption": text, "index": n} for n, (jpg, text) in numbered
        ]
        number += len(group)
        yield collate(made)


def by_pillow(samples: Iterator[Sample]) -> Iterator[dict[str, Any]]:
    """Resize(256, BICUBIC), CenterCrop(256), PILToTensor of torchvision do this to square images."""
    while group := list(islice(samples, BATCH_SIZE)):
        images = (
            Image.open(io.BytesIO(jpg)).convert("RGB").resize((256, 256), Image.Resampling.BICUBIC) for jpg, _ in group
        )
        pixels = [torch.from_numpy(np.array(image)).permute(2, 0, 1) for image in images]
        yield collate([{"x": x, "caption": text} for x, (_, text) in zip(pixels, group, strict=True)])


def raw(name: str, folder: Path) -> float:
    peer = opened(name, folder)
    return rate(lambda: sum(1 for _ in islice(peer.samples(), NUM_SAMPLES)), NUM_SAMPLES)


def decoded(name: str, folder: Path) -> float:
    count = NUM_SAMPLES // 4 // BATCH_SIZE
    if name == "ours":
        data = module(sorted(map(str, folder.glob("*.tar"))), Preprocess)
        loader = data.train_dataloader()
        return rate(
            lambda: sum(1 for batch in islice(loader, count) if data.on_after_batch_transfer(batch, 0)),
            count,
        ) * BATCH_SIZE  # fmt: skip
    return of_peer(name, folder, by_us, count)


def pillow(name: str, folder: Path) -> float:
    return of_peer(name, folder, by_pillow, NUM_SAMPLES // 4 // BATCH_SIZE)


def of_peer(name: str, folder: Path, batches: Callable[[Iterator[Sample]], Iterator[Any]], count: int) -> float:
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
    next(by_us(peer.samples()))
    return time.perf_counter() - start


MEASURES: dict[str, Callable[[str, Path], float]] = {
    "raw": raw,
    "decoded": decoded,
    "pillow": pillow,
    "memory": memory,
    "near": lambda name, folder: resume(name, folder, 10),
    "on": lambda name, folder: resume(name, folder, 3000),
    "far": lambda name, folder: resume(name, folder, FAR),
}

if __name__ == "__main__":
    main()
