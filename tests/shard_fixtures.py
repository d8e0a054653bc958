"""Images, shards of them, tars of any members, and a web server on loopback that does wrong what it is told to."""

from __future__ import annotations

import hashlib
import io
import itertools
import random
import re
import tarfile
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from email.message import Message
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image

from diffusion_train.data.datamodule import DataModule
from diffusion_train.data.dataset import ShardDataset
from diffusion_train.data.order.order import Order
from diffusion_train.data.order.order_spec import OrderSpec
from diffusion_train.data.shard.writer import write_shards
from diffusion_train.data.storage.remote import RemoteStorage
from diffusion_train.data.storage.settings import StorageSettings

MakePng = Callable[..., bytes]


def _png(number: int, width: int = 20, height: int = 16) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "png")
    return out.getvalue()


@pytest.fixture
def private_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache folder of one test, in place of the session's, for tests that look inside or need it empty."""
    monkeypatch.setenv("DIFFUSION_TRAIN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="session")
def make_png() -> MakePng:
    return _png


@pytest.fixture
def make_shards(tmp_path: Path) -> Callable[..., list[Path]]:
    """Shards of samples k00000, k00001, ... with noise for images and "caption <number>"."""

    def make(num_samples: int, per_shard: int, folder: str = "shards") -> list[Path]:
        samples = (
            {"__key__": f"k{i:05d}", "png": _png(i), "txt": f"caption {i}", "json": {"number": i}}
            for i in range(num_samples)
        )
        return write_shards(samples, tmp_path / folder, "part", per_shard)

    return make


@pytest.fixture
def make_tar(tmp_path: Path) -> Callable[..., Path]:
    """A tar of (name, contents) pairs, or of prepared headers, in a format of the tarfile module."""

    def make(members: list, name: str = "made.tar", tar_format: int = tarfile.USTAR_FORMAT) -> Path:
        path = tmp_path / name
        with tarfile.open(path, "w", format=tar_format) as archive:
            for member in members:
                info, contents = member if isinstance(member, tuple) else (member, b"")
                if isinstance(info, str):
                    info = tarfile.TarInfo(info)
                    info.size = len(contents)
                archive.addfile(info, io.BytesIO(contents))
        return path

    return make


class Seen(NamedTuple):
    path: str
    headers: Message


class FaultServer(ThreadingHTTPServer):
    """Objects by their path. A request does what `plan` says next, then what `always` says."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.objects: dict[str, bytes] = {}
        self.plan: deque[Callable[[Handler], None]] = deque()
        self.always: Callable[[Handler], None] = Handler.ok
        self.seen: list[Seen] = []
        self.etags = True
        self.ended = threading.Event()
        self.lock = threading.Lock()
        self.at_once, self.most_at_once = 0, 0

    def url(self, path: str = "/a.tar") -> str:
        return f"http://127.0.0.1:{self.server_port}{path}"

    def ranges(self) -> list[str]:
        return [request.headers["Range"] for request in self.seen]

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that hang up are part of the game."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: FaultServer

    def do_GET(self) -> None:
        server = self.server
        with server.lock:
            server.seen.append(Seen(self.path, self.headers))
            server.at_once += 1
            server.most_at_once = max(server.most_at_once, server.at_once)
            behave = server.plan.popleft() if server.plan else server.always
        try:
            behave(self)
        finally:
            with server.lock:
                server.at_once -= 1

    do_POST = do_GET

    @property
    def contents(self) -> bytes:
        return self.server.objects[self.path.partition("?")[0]]

    @property
    def etag(self) -> str:
        return f'"{hashlib.md5(self.contents).hexdigest()}"'

    @property
    def asked(self) -> tuple[int, int]:
        first, last = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers["Range"]).groups()
        return int(first), min(int(last) + 1, len(self.contents))

    def ok(self) -> None:
        if self.path.partition("?")[0] not in self.server.objects:
            self.status(404)
        elif self.server.etags and self.headers.get("If-Match", self.etag) != self.etag:
            self.status(412)
        elif self.asked[0] >= self.asked[1]:
            self.status(416, Content_Range=f"bytes */{len(self.contents)}")
        else:
            self.wfile.write(self.part_head())

    def status(self, number: int, body: bytes = b"", **headers: str) -> None:
        self.head(number, len(body), **headers)
        self.wfile.write(body)

    def html(self) -> None:
        self.status(200, b"<html>Please log in</html>", Content_Type="text/html")

    def whole(self) -> None:
        """As servers do that know no ranges."""
        self.status(200, self.contents, Content_Type="application/x-tar")

    def other_bytes(self) -> None:
        start, end = self.asked
        self.wfile.write(self.part_head(Content_Range=f"bytes {start + 1}-{end}/{len(self.contents)}"))

    def cut(self, after: int) -> None:
        self.wfile.write(self.part_head()[:after])
        self.hang_up()

    def cut_without_length(self, after: int) -> None:
        """Looks like the end of the answer."""
        self.wfile.write(self.part_head(length=False, Connection="close")[:after])
        self.hang_up()

    def cut_chunked(self, after: int) -> None:
        data = self.part_head(length=False, Transfer_Encoding="chunked")[:after]
        self.wfile.write(b"%x\r\n%b" % (after + 1, data))
        self.hang_up()

    def stall(self) -> None:
        self.server.ended.wait(30)
        self.hang_up()

    def stall_in_body(self) -> None:
        self.wfile.write(self.part_head()[:10])
        self.stall()

    def trickle(self) -> None:
        self._slowly(self.part_head())

    def trickle_head(self) -> None:
        self._slowly(b"HTTP/1.1 206 Partial Content\r\n" + b"X: y\r\n" * 1000)

    def garbage(self) -> None:
        self.wfile.write(b"SSH-2.0-OpenSSH_9.2\r\n")
        self.hang_up()

    def hang_up(self) -> None:
        self.close_connection = True

    def part_head(self, length: bool = True, **headers: str) -> bytes:
        """Sends the head of a right answer; returns what should follow."""
        start, end = self.asked
        headers = {"Content_Range": f"bytes {start}-{end - 1}/{len(self.contents)}"} | headers
        self.head(206, end - start if length else None, **({"ETag": self.etag} if self.server.etags else {}), **headers)
        return self.contents[start:end]

    def head(self, status: int, length: int | None, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.end_headers()

    def _slowly(self, data: bytes) -> None:
        for byte in data:
            self.wfile.write(bytes([byte]))
            if self.server.ended.wait(0.05):
                return

    def log_message(self, *_: object) -> None:
        """Quietly."""


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with FaultServer() as server:
        server.objects["/a.tar"] = random.Random(0).randbytes(100_000)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.ended.set()
        server.shutdown()


@pytest.fixture
def hasty() -> RemoteStorage:
    """Gives up after about a second."""
    return RemoteStorage(StorageSettings(connect_timeout=0.2, read_timeout=0.3, deadline=0.7, min_speed=200_000))


@pytest.fixture
def global_batches() -> Callable[[ShardDataset, Sequence[tuple[int, int, int]]], list[list[str]]]:
    """Keys of the global batches of a run that goes on through stages of (ranks, workers, steps)."""

    def run(dataset: ShardDataset, stages: Sequence[tuple[int, int, int]]) -> list[list[str]]:
        data = DataModule(dataset, OrderSpec(partial(Order, seed=0, block_size=4, window=2)), batch_size=8)
        step, batches = 0, []
        for ranks, data.num_workers, steps in stages:
            data.seek(step, 8 * step)
            shares = []
            for rank in range(ranks):
                strategy = SimpleNamespace(root_device=torch.device("cpu"))
                data.trainer = SimpleNamespace(global_rank=rank, world_size=ranks, strategy=strategy)
                shares.append([batch["key"] for batch in itertools.islice(data.train_dataloader(), steps)])
            batches += [list(itertools.chain(*share)) for share in zip(*shares, strict=True)]
            step += steps
        return batches

    return run
