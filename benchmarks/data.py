"""Samples a second, memory and resume time of our loader against other libraries, on the same JPEGs.

    pip install litdata mosaicml-streaming    # those of them that are to be compared
    python benchmarks/data.py

Each figure is of a process of its own, without workers, files in the page cache, shuffled; speeds are the median of
three passes. Decoded: the bytes that each library gives go through our decoding and transform to 256 pixels.
"""

from __future__ import annotations

import argparse
import io
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
from PIL import Image
from torch import Tensor

from diffusion_train.data.arrangement import Arrangement
from diffusion_train.data.dataset import ShardDataset
from diffusion_train.data.module import DataModule
from diffusion_train.data.order import Draw, Order
from diffusion_train.data.shards import write_shards
from diffusion_train.data.transform import ImageTransform
from diffusion_train.data.view import View

MODULES = {"ours": "diffusion_train", "webdataset": "webdataset", "litdata": "litdata", "streaming": "streaming"}
NUM_SAMPLES, BATCH_SIZE, FAR = 4000, 64, 10_000_000
Samples = Iterator[Any]


class Raw(View):
    """The bytes as they are."""

    def __call__(self, image: bytes, *_: Any) -> dict[str, Any]:
        return {"image": image}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", nargs="*", default=[*MODULES], choices=[*MODULES])
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)  # what, library, folder: in a process of its own
    options = parser.parse_args(arguments)
    if options.one:
        what, name, folder = options.one
        print(json.dumps(MEASURES[what](name, Path(folder))))
        return
    with tempfile.TemporaryDirectory() as folder:
        os.environ["DIFFUSION_TRAIN_CACHE"] = f"{folder}/cache"
        make(Path(folder))
        print(
            "| | raw, samples/s (times webdataset's) | decoded | MB, 10 shards | MB, 1,000 shards | resume at 10, at 10 million |"
        )
        print("|---|---|---|---|---|---|")
        marks = [measured(what, "webdataset", Path(folder) / "few") for what in ("raw", "decoded")]
        for name in options.peers:
            print(f"| {name} | " + " | ".join(row(name, Path(folder), marks)) + " |", flush=True)


def row(name: str, folder: Path, marks: Sequence[float]) -> list[str]:
    if subprocess.run([sys.executable, "-c", f"import {MODULES[name]}"], capture_output=True, check=False).returncode:
        return ["cannot be imported here"]
    figures = [measured(what, name, folder / "few") for what in ("raw", "decoded")]
    speeds = [f"{figure:,.0f} ({figure / mark:.2f})" for figure, mark in zip(figures, marks, strict=True)]
    memory = [f"{measured('memory', name, folder / many):.0f}" if tars(name) else "-" for many in ("few", "many")]
    near = [f"{measured(what, name, folder / 'few'):.3f} s" for what in (["near", "far"] if name == "ours" else [])]
    return [*speeds, *memory, ", ".join(near) or "not measured"]


def measured(what: str, name: str, folder: Path) -> float:
    command = [sys.executable, __file__, "--one", what, name, str(folder)]
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])


def tars(name: str) -> bool:
    return name in ("ours", "webdataset")


def make(folder: Path) -> None:
    """The same samples in 10 and in 1,000 shards."""
    images = [photo(number) for number in range(200)]
    for name, per_shard in (("few", NUM_SAMPLES // 10), ("many", NUM_SAMPLES // 1000)):
        samples = (
            {"__key__": f"{number:06d}", "jpg": images[number % 200], "txt": f"caption {number}"}
            for number in range(NUM_SAMPLES)
        )
        write_shards(samples, folder / name, "part", per_shard)


def photo(number: int, side: int = 384) -> bytes:
    """Smooth shapes with some grain: a JPEG of about 30 KB."""
    rng = np.random.default_rng(number)
    coarse = Image.fromarray(rng.integers(0, 256, (24, 24, 3), dtype=np.uint8)).resize(
        (side, side), Image.Resampling.BICUBIC
    )
    grain = rng.normal(0, 6, (side, side, 1))
    out = io.BytesIO()
    Image.fromarray(np.clip(np.asarray(coarse) + grain, 0, 255).astype(np.uint8)).save(out, "jpeg", quality=85)
    return out.getvalue()


def opened(name: str, folder: Path, decode: bool) -> Callable[[], Samples]:
    """A function that begins a pass; of ours and of others that decode themselves the samples are batches."""
    urls = sorted(map(str, folder.glob("*.tar")))
    if name == "ours":
        data = module(urls, decode)
        return lambda: (sample for batch in data.train_dataloader() for sample in batch["key"])
    if name == "webdataset":
        import webdataset

        pipeline = webdataset.WebDataset(urls, shardshuffle=1000, seed=0).shuffle(1000)
        return lambda: decoded(pipeline) if decode else iter(pipeline)
    dataset = PEERS[name](urls, folder.with_name(f"{folder.name}-{name}"))
    return lambda: decoded(dataset) if decode else iter(dataset)


def module(urls: list[str], decode: bool) -> DataModule:
    dataset = ShardDataset(urls, (View if decode else Raw)(ImageTransform(256)))
    return DataModule(dataset, Arrangement(lambda **facts: Order(0, **facts)), BATCH_SIZE)


def decoded(samples: Any) -> Iterator[dict[str, Tensor]]:
    view = View(ImageTransform(256))
    for number, sample in enumerate(samples):
        yield view(sample["jpg"], Draw(0, number), "", {}, None)


def raw_samples(urls: list[str]) -> Iterator[dict[str, Any]]:
    import webdataset

    for sample in webdataset.WebDataset(urls, shardshuffle=False):
        yield {"jpg": sample["jpg"], "txt": sample["txt"].decode()}


def litdata_dataset(urls: list[str], folder: Path) -> Any:
    import litdata
    from litdata.streaming.cache import Cache

    if not folder.exists():
        folder.mkdir()
        cache = Cache(str(folder), chunk_bytes=1 << 24)
        for number, sample in enumerate(raw_samples(urls)):
            cache[number] = sample
        cache.done()
        cache.merge()
    return litdata.StreamingDataset(str(folder), shuffle=True)


def streaming_dataset(urls: list[str], folder: Path) -> Any:
    from streaming import MDSWriter, StreamingDataset

    if not folder.exists():
        with MDSWriter(out=str(folder), columns={"jpg": "bytes", "txt": "str"}) as writer:
            for sample in raw_samples(urls):
                writer.write(sample)
    return StreamingDataset(local=str(folder), shuffle=True, batch_size=BATCH_SIZE)


PEERS = {"litdata": litdata_dataset, "streaming": streaming_dataset}


def speed(name: str, folder: Path, decode: bool) -> float:
    begin, count = opened(name, folder, decode), NUM_SAMPLES // (4 if decode else 1)
    sum(1 for _ in islice(begin(), count))
    rates = []
    for _ in range(3):
        start = time.perf_counter()
        assert sum(1 for _ in islice(begin(), count)) == count
        rates.append(count / (time.perf_counter() - start))
    return statistics.median(rates)


def memory(name: str, folder: Path) -> float:
    assert sum(1 for _ in islice(opened(name, folder, decode=False)(), 1000)) == 1000
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


def resume(folder: Path, position: int) -> float:
    """From nothing but the shards' addresses to the first batch at the position, decoded."""
    start = time.perf_counter()
    data = module(sorted(map(str, folder.glob("*.tar"))), decode=True)
    data.go_on(0, position)
    next(iter(data.train_dataloader()))
    return time.perf_counter() - start


MEASURES: dict[str, Callable[[str, Path], float]] = {
    "raw": lambda name, folder: speed(name, folder, decode=False),
    "decoded": lambda name, folder: speed(name, folder, decode=True),
    "memory": memory,
    "near": lambda _, folder: resume(folder, 10),
    "far": lambda _, folder: resume(folder, FAR),
}

if __name__ == "__main__":
    main()
