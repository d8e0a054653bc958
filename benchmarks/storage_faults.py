"""A web server on loopback with the faults of a shard's way,
and what each client of benchmarks/storage.py makes of them.

Each answer is "right", "WRONG BYTES", "hangs" (after 15 s), or the class of the error with the seconds it took.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import multiprocessing
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection

Read = Callable[[list[tuple[int, int]]], list[bytes]]
Client = Callable[[str], Read]
Behave = Callable[["Handler"], None]
PLACES = [(1000, 300_000), (4 << 20, 300_000)]
SECRET = "CANARY0123456789"
ENDED = threading.Event()


class FaultServer(http.server.ThreadingHTTPServer):
    """Serves ranges of `data`; a GET does what `plan` says next, then what `always` says."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, data: bytes) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.data, self.sent = data, 0
        self.plan: list[Behave] = []
        self.always: Behave = Handler.ok

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/a.tar?X-Amz-Signature={SECRET}"

    def handle_error(self, request: object, client_address: object) -> None: ...


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FaultServer

    def do_HEAD(self) -> None:
        self.head(200, len(self.server.data))

    def do_GET(self) -> None:
        (self.server.plan.pop(0) if self.server.plan else self.server.always)(self)

    def ok(self) -> None:
        self.send(self.body())

    def status(self, number: int) -> None:
        self.head(number, 0)

    def cut(self, length: bool = True) -> None:
        body = self.body(length)
        self.send(body[: len(body) // 2] if len(body) > 100_000 else body)
        self.close_connection = True

    def stall(self) -> None:
        self.send(self.body()[:10])
        ENDED.wait(30)
        self.close_connection = True

    def trickle(self) -> None:
        for byte in self.body():
            self.send(bytes([byte]))
            if ENDED.wait(0.05):
                return

    def replace(self) -> None:
        """Right for the first half; meanwhile another object has taken its place."""
        self.cut()
        self.server.data = self.server.data[::-1]

    def body(self, length: bool = True) -> bytes:
        """Sends the head of a right response."""
        data, etag = self.server.data, f'"{hashlib.md5(self.server.data).hexdigest()}"'
        match = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        first, last = map(int, match.groups()) if match else (0, len(data) - 1)
        if self.headers.get("If-Match", etag) != etag:
            self.head(412, 0)
            return b""
        self.head(206, last + 1 - first if length else None, f"bytes {first}-{last}/{len(data)}")
        return data[first : last + 1]

    def head(self, status: int, length: int | None, content_range: str = "") -> None:
        self.send_response(status)
        self.send_header("ETag", f'"{hashlib.md5(self.server.data).hexdigest()}"')
        self.send_header("Accept-Ranges", "bytes")
        if content_range:
            self.send_header("Content-Range", content_range)
        self.send_header("Connection", "close") if length is None else self.send_header("Content-Length", str(length))
        self.end_headers()

    def send(self, data: bytes) -> None:
        self.server.sent += len(data)
        self.wfile.write(data)

    def log_message(self, *_: object) -> None: ...


# What is planted once a client has read its first bytes: responses in turn, then what every later one does.
FAULTS: dict[str, tuple[list[Behave], Behave]] = {
    "503 twice, then well": ([lambda h: h.status(503)] * 2, Handler.ok),
    "cut in the middle": ([Handler.cut] * 2, Handler.ok),
    "long responses cut every time": ([], Handler.cut),
    "cut, no Content-Length": ([lambda h: h.cut(length=False)] * 2, Handler.ok),
    "silent once": ([Handler.stall], Handler.ok),
    "silent for good": ([], Handler.stall),
    "20 bytes a second": ([], Handler.trickle),
    "replaced between two requests": ([Handler.replace], Handler.ok),
    "403": ([], lambda h: h.status(403)),
    "404": ([], lambda h: h.status(404)),
}


def fault_rows(clients: Sequence[Client], data: bytes) -> Iterator[tuple[str, list[str]]]:
    for name, (plan, always) in FAULTS.items():
        yield name, [_with_fault(client, data, plan, always) for client in clients]


def _with_fault(client: Client, data: bytes, plan: list[Behave], always: Behave) -> str:
    with _serving(data) as server:

        def planted(url: str) -> Read:
            read = client(url)
            read([(0, 10)])
            server.plan, server.always, server.sent = list(plan), always, 0
            return read

        answer = right(planted, server.url, data)
        again = server.sent - sum(size for _, size in PLACES)
        return f"{answer}, {again >> 10} KiB sent twice" if answer == "right" and again > 0 else answer


def right(client: Client, url: str, data: bytes) -> str:
    answers, started = ["hangs"], time.perf_counter()

    def work() -> None:
        try:
            wanted = [data[offset : offset + size] for offset, size in PLACES]
            answers.append("right" if client(url)(PLACES) == wanted else "WRONG BYTES")
        except Exception as error:  # noqa: BLE001  whatever a client raises is its answer
            leaks = ", signature in its text" if SECRET in str(error) else ""
            answers.append(f"{type(error).__name__} in {time.perf_counter() - started:.0f} s{leaks}")

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(15)
    return answers[-1]


def right_after_fork(client: Client, url: str, data: bytes) -> str:
    """In a process of its own, for a client may crash the parent."""
    here, there = multiprocessing.Pipe()
    parent = multiprocessing.get_context("spawn").Process(target=_fork, args=(client, url, data, there))
    parent.start()
    there.close()
    try:
        return str(here.recv()) if here.poll(60) else "hangs"
    except EOFError:
        parent.join()
        return f"the parent dies of signal {-(parent.exitcode or 0)}"
    finally:
        parent.kill()


def _fork(client: Client, url: str, data: bytes, result: Connection) -> None:
    read = client(url)
    read([(0, 10)])
    here, there = multiprocessing.Pipe()
    context = multiprocessing.get_context("fork")
    child = context.Process(target=lambda: there.send(right(lambda _: read, url, data)), daemon=True)
    child.start()
    answer = str(here.recv()) if here.poll(20) else "hangs"
    child.kill()
    result.send(answer)


@contextlib.contextmanager
def _serving(data: bytes) -> Iterator[FaultServer]:
    with FaultServer(data) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()
