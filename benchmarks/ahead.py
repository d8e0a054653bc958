"""What a step waits for data that lie on a slow server: 50 ms before each answer, 20 MB/s for all together.

    python benchmarks/ahead.py

Batches of 32 images of 25 KB, 40 ms a transfer, and a step that computes for 100 ms on another device. The median and
the longest wait over 100 steps after the first three; these are two windows of the order, and a cache fetches whole
blocks of 4 MiB.
"""

from __future__ import annotations

import http.server
import io
import itertools
import logging
import multiprocessing
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from diffusion_train.data.datamodule import DataModule
from diffusion_train.data.dataset import ShardDataset
from diffusion_train.data.image.preprocess import Preprocess
from diffusion_train.data.image.transform import ImageTransform
from diffusion_train.data.order.order import Order
from diffusion_train.data.order.order_spec import OrderSpec
from diffusion_train.data.shard.writer import write_shards
from diffusion_train.data.storage.by_scheme import StorageByScheme
from diffusion_train.data.storage.settings import StorageSettings

LATENCY, BYTES_A_SECOND = 0.05, 20e6
STEP, BATCH, SAMPLES, STEPS = 0.1, 32, 8192, 100


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["DIFFUSION_TRAIN_CACHE"] = f"{folder}/index"
        shards = write_shards(samples(), Path(folder) / "shards", "part", 1024)
        with slow_server(Path(folder) / "shards") as address:
            remote = [f"{address}/{path.name}" for path in shards]
            print("| | workers | median wait, ms | longest, ms | 100 steps, s |\n|---|---|---|---|---|")
            for name, urls, options in (
                ("local files", list(map(str, shards)), {}),
                ("nothing read ahead", remote, {"ahead_bytes": 0}),
                ("read ahead, as it is set", remote, {}),
                ("an empty cache, nothing read ahead", remote, {"ahead_bytes": 0, "cache_bytes": 1 << 30}),
                ("an empty cache, read ahead", remote, {"cache_bytes": 1 << 30}),
            ):
                for num_workers in (0, 2):
                    cache = tempfile.mkdtemp(dir=folder) if "cache_bytes" in options else None
                    waits = measured(urls, num_workers, StorageByScheme(StorageSettings(cache, **options)))
                    median, longest = (f"{1000 * value:.0f}" for value in (statistics.median(waits), max(waits)))
                    print(
                        f"| {name} | {num_workers} | {median} | {longest} | {sum(waits) + STEPS * STEP:.1f} |",
                        flush=True,
                    )


def measured(urls: list[str], num_workers: int, storage: StorageByScheme) -> list[float]:
    dataset = ShardDataset(urls, Preprocess(ImageTransform(64)), storage=storage)
    order = OrderSpec(partial(Order, seed=0, window=24))
    waits, batches = [], iter(DataModule(dataset, order, BATCH, num_workers=num_workers).train_dataloader())
    for _ in range(STEPS + 3):
        started = time.perf_counter()
        next(batches)
        waits.append(time.perf_counter() - started)
        time.sleep(STEP)
    return waits[3:]


def samples() -> Iterator[dict[str, object]]:
    images = []
    for seed in range(50):
        pixels = np.random.default_rng(seed).integers(0, 256, (128, 128, 3), dtype=np.uint8)
        out = io.BytesIO()
        Image.fromarray(pixels).save(out, "jpeg", quality=93)
        images.append(out.getvalue())
    for number, image in zip(range(SAMPLES), itertools.cycle(images), strict=False):
        yield {"__key__": f"{number:06d}", "jpg": image, "txt": "noise"}


@contextmanager
def slow_server(folder: Path) -> Iterator[str]:
    """In a process of its own, not to share our interpreter."""
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=serve, args=(folder, there), daemon=True)
    process.start()
    yield here.recv()
    process.kill()


def serve(folder: Path, pipe: Connection) -> None:
    line = Line()

    class Slow(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = folder / self.path.lstrip("/")
            time.sleep(LATENCY)
            if not path.is_file():
                self.send_error(404)
                return
            first, last = map(int, self.headers["Range"].removeprefix("bytes=").split("-"))
            size = path.stat().st_size
            last = min(last, size - 1)
            with path.open("rb") as file:
                file.seek(first)
                data = file.read(last + 1 - first)
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
            self.send_header("Content-Length", str(len(data)))
            self.send_header("ETag", '"1"')
            self.end_headers()
            for start in range(0, len(data), 1 << 16):
                line.wait(len(data[start : start + (1 << 16)]))
                self.wfile.write(data[start : start + (1 << 16)])

        def log_message(self, *_: object) -> None: ...

    with Server(("127.0.0.1", 0), Slow) as server:
        pipe.send(f"http://127.0.0.1:{server.server_port}")
        server.serve_forever()


class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 64

    def handle_error(self, *_: object) -> None:
        """Clients may hang up."""


class Line:
    """Lets BYTES_A_SECOND pass, whoever sends them."""

    def __init__(self) -> None:
        self.free_at, self.lock = 0.0, threading.Lock()

    def wait(self, size: int) -> None:
        with self.lock:
            self.free_at = max(self.free_at, time.monotonic()) + size / BYTES_A_SECOND
            until = self.free_at
        time.sleep(max(until - time.monotonic(), 0))


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    main()
