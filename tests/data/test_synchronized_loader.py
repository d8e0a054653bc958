"""Processes that stop together, with gloo."""

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from time import monotonic
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.utils.data import DataLoader

from diffusion_train.data.storage.base import Denied
from diffusion_train.data.synchronized_loader import StoppedOnAllRanks, SynchronizedLoader
from diffusion_train.utils.process.child_process import serve_parent

pytestmark = pytest.mark.slow
_LONGEST = 120  # seconds; processes that wait for each other without end are a failure, not a hang


class _Server(BaseHTTPRequestHandler):
    """Refuses process 1 its fourth item."""

    def do_GET(self) -> None:
        self.send_response(403 if self.path == "/1/3" else 200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def port() -> Iterator[int]:
    with HTTPServer(("127.0.0.1", 0), _Server) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


def _items(rank: int, port: int, kind: type[Exception]) -> Iterator[int]:
    for number in range(10):
        try:
            urlopen(f"http://127.0.0.1:{port}/{rank}/{number}", timeout=20).close()
        except HTTPError as error:
            raise kind(f"/{rank}/{number}: {error.code}") from error
        yield number


def _process(rank: int, folder: Path, port: int, kind: type[Exception]) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    got: list[Any] = []
    try:
        for item in SynchronizedLoader(_items(rank, port, kind)):
            got.append(item)  # noqa: PERF402  what came before the fault counts
    except Exception as error:  # noqa: BLE001
        (folder / str(rank)).write_text(f"{got} {type(error).__name__} {error}")
    dist.destroy_process_group()


def _told(folder: Path, port: int, kind: type[Exception]) -> list[str]:
    processes = mp.spawn(_process, (folder, port, kind), nprocs=2, join=False)
    deadline = monotonic() + _LONGEST
    while not processes.join(timeout=1):
        if monotonic() > deadline:
            for process in processes.processes:
                process.kill()
            pytest.fail(f"after {_LONGEST} s a process still waits for another one")
    return [(folder / str(rank)).read_text() for rank in range(2)]


def test_storage_that_refuses_one_process_stops_both_before_the_same_step(tmp_path: Path, port: int) -> None:
    text = f"[0, 1, 2] {StoppedOnAllRanks.__name__} process 1 of 2 cannot read its data: /1/3: 403"
    assert _told(tmp_path, port, Denied) == [text, text]


def test_another_fault_is_raised_where_it_is_and_told_elsewhere(tmp_path: Path, port: int) -> None:
    elsewhere = "[0, 1, 2] RuntimeError process 1 of 2 cannot read its data: /1/3: 403"
    assert _told(tmp_path, port, ZeroDivisionError) == [elsewhere, "[0, 1, 2] ZeroDivisionError /1/3: 403"]


def test_lightning_finds_the_workers_that_it_ends_at_the_end(monkeypatch) -> None:
    """At the end of the interpreter nobody would tell them, and they leave signals to their parent."""
    from pytorch_lightning.utilities.combined_loader import _shutdown_workers_and_reset_iterator

    monkeypatch.setattr(dist, "new_group", lambda **_: None)
    loader: DataLoader[int] = DataLoader(
        range(100), num_workers=1, persistent_workers=True, worker_init_fn=serve_parent
    )
    iter(loader)
    [worker] = loader._iterator._workers
    assert worker.is_alive()
    _shutdown_workers_and_reset_iterator(SynchronizedLoader(loader))
    assert not worker.is_alive()
    assert loader._iterator is None
    _shutdown_workers_and_reset_iterator(SynchronizedLoader([1, 2]))
