"""A real web server and a real object store, started here on free loopback ports."""

from __future__ import annotations

import json
import os
import random
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import botocore.session
import pytest
from botocore.config import Config

from diffusion_train.data.dataset import ShardDataset
from diffusion_train.data.image.preprocess import Preprocess
from diffusion_train.data.image.transform import ImageTransform
from diffusion_train.data.storage.base import Changed, Denied, Missing, Range, StorageError
from diffusion_train.data.storage.by_scheme import StorageByScheme
from diffusion_train.data.storage.settings import StorageSettings

pytestmark = pytest.mark.slow
DATA = random.Random(0).randbytes(3_000_000)
WRITER, READER = ("writerKEY", "writerSECRET"), ("readerKEY", "readerSECRET")
QUICK = StorageSettings(connect_timeout=1, read_timeout=2, deadline=20)


class Server:
    """A process that is ended by SIGKILL, as its memory might end it, and can be started again on the same ports."""

    def __init__(self, command: list[str], probe: str) -> None:
        self.command, self.probe = command, probe
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(
            self.command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with suppress(OSError):
                urllib.request.urlopen(self.probe, timeout=1).close()
                return
            time.sleep(0.05)
        raise TimeoutError(f"{self.command[0]} does not answer")

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, 9)
        self.process.wait()


def _program(name: str) -> str:
    """Beside Python, or where the system keeps servers."""
    found = shutil.which(name, path=f"{Path(sys.executable).parent}:{os.environ['PATH']}:/usr/sbin")
    if not found:
        pytest.skip(f"{name} is not installed")
    return found


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    [one.close() for one in sockets]
    return ports


NGINX = """
daemon off; pid {folder}/pid; error_log {folder}/errors; worker_processes 1; {user}
events {{ worker_connections 64; }}
http {{
    access_log off;
    client_body_temp_path {folder}/1; proxy_temp_path {folder}/2; fastcgi_temp_path {folder}/3;
    uwsgi_temp_path {folder}/4; scgi_temp_path {folder}/5;
    server {{
        listen 127.0.0.1:{port};
        root {folder}/www;
        location /slow/ {{ alias {folder}/www/; limit_rate 1m; }}
        location /crawl/ {{ alias {folder}/www/; limit_rate 2k; }}
        location /gone/ {{ return 410; }}
        location /busy/ {{ return 503; }}
        location /plain/ {{ alias {folder}/www/; max_ranges 0; }}
    }}
}}
"""


@pytest.fixture(scope="module")
def nginx(tmp_path_factory) -> Iterator[tuple[Server, str]]:
    program, folder, [port] = _program("nginx"), tmp_path_factory.mktemp("nginx"), _free_ports(1)
    (folder / "www").mkdir()
    (folder / "www" / "a.tar").write_bytes(DATA)
    (folder / "www" / "index.html").write_text("<html></html>")
    user = "user root;" if os.geteuid() == 0 else ""
    (folder / "conf").write_text(NGINX.format(folder=folder, port=port, user=user))
    url = f"http://127.0.0.1:{port}"
    server = Server([program, "-p", str(folder), "-c", str(folder / "conf")], url)
    yield server, url
    server.kill()


@pytest.fixture(scope="module")
def weed(tmp_path_factory) -> Iterator[tuple[Server, str]]:
    """SeaweedFS with one who may write and one who may read the bucket "shards"."""
    program, folder = _program("weed"), tmp_path_factory.mktemp("weed")
    master, volume, filer, s3 = _free_ports(4)
    identities = [
        {"name": name, "credentials": [{"accessKey": key, "secretKey": secret}], "actions": actions}
        for name, (key, secret), actions in (
            ("writer", WRITER, ["Admin"]),
            ("reader", READER, ["Read:shards"]),
        )
    ]
    (folder / "s3.json").write_text(json.dumps({"identities": identities}))
    options = f"""-dir={folder} -ip=127.0.0.1 -ip.bind=127.0.0.1 -master.port={master} -volume.port={volume}
        -filer -filer.port={filer} -s3 -s3.port={s3} -s3.config={folder}/s3.json -s3.iam=false -volume.max=20
        -master.telemetry=false -s3.port.iceberg=0 -s3.port.lance=0"""
    url = f"http://127.0.0.1:{s3}"
    server = Server([program, "server", *options.split()], f"{url}/status")
    client = _client(url, *WRITER)
    client.create_bucket(Bucket="shards")
    client.put_object(Bucket="shards", Key="train/a 0.tar", Body=DATA)
    yield server, url
    server.kill()


def _client(url: str, key: str, secret: str):
    return botocore.session.get_session().create_client(
        "s3",
        endpoint_url=url,
        region_name="us-east-1",
        aws_access_key_id=key,
        aws_secret_access_key=secret,
        config=Config(signature_version="s3v4"),
    )


@pytest.fixture
def as_user(weed, tmp_path, monkeypatch) -> Callable[..., StorageByScheme]:
    """The storage as seen with the credentials given, or with none."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", weed[1])
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))

    def storage(key: str = "", secret: str = "", settings: StorageSettings = QUICK) -> StorageByScheme:
        for name, value in (("AWS_ACCESS_KEY_ID", key), ("AWS_SECRET_ACCESS_KEY", secret)):
            monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name, raising=False)
        return StorageByScheme(settings)

    return storage


SHARD = "s3://shards/train/a 0.tar"


def _ranges(storage, url, places=((5, 100), (2_000_000, 500_000), (2_999_999, 1), (90_000, 3000))):
    size, version = storage.stat(url)
    assert size == len(DATA)
    return [Range(url, version, *place) for place in places]


def _wanted(ranges):
    return [DATA[wanted.offset : wanted.offset + wanted.size] for wanted in ranges]


def test_nginx_serves_ranges(nginx):
    storage = StorageByScheme()
    ranges = _ranges(storage, f"{nginx[1]}/a.tar")
    assert storage.read(ranges) == _wanted(ranges)
    assert storage.num_retries == 0


@pytest.mark.parametrize(
    ("path", "kind", "message"),
    [
        ("/none.tar", Missing, "404"),
        ("/gone/a.tar", Missing, "410"),
        ("/plain/a.tar", StorageError, "does not support range requests"),
        ("/busy/a.tar", StorageError, "503; gave up"),
    ],
)
def test_nginx_refuses(nginx, path, kind, message):
    with pytest.raises(kind, match=message):
        StorageByScheme(StorageSettings(deadline=0.5)).stat(nginx[1] + path)


def test_a_slow_server_is_waited_for_and_one_below_the_lowest_speed_is_not(nginx):
    storage = StorageByScheme(StorageSettings(read_timeout=1, deadline=2, min_speed=50_000))
    slow, crawl = (_ranges(storage, f"{nginx[1]}/{place}/a.tar", [(0, 2_500_000)]) for place in ("slow", "crawl"))
    assert storage.read(slow) == _wanted(slow)
    start = time.monotonic()
    with pytest.raises(StorageError, match=r"(slower than 50000 bytes per second|no response in time); gave up"):
        storage.read(crawl)
    assert time.monotonic() - start < 10


def test_a_web_server_killed_in_the_middle_and_started_again(nginx):
    server, url = nginx
    storage = StorageByScheme(QUICK)
    ranges = _ranges(storage, f"{url}/slow/a.tar", [(0, 2_500_000)])
    again = threading.Timer(0.7, lambda: (server.kill(), time.sleep(0.7), server.start()))
    again.start()
    assert storage.read(ranges) == _wanted(ranges)
    again.join()
    assert storage.num_retries > 0


def test_a_file_replaced_on_the_web_server(nginx):
    path = Path(nginx[0].command[2]) / "www" / "b.tar"
    path.write_bytes(DATA)
    storage = StorageByScheme()
    ranges = _ranges(storage, f"{nginx[1]}/b.tar")
    os.utime(path, (0, 0))
    with pytest.raises(Changed):
        storage.read(ranges)


def test_the_object_store_as_one_who_may_only_read(as_user):
    storage = as_user(*READER)
    ranges = _ranges(storage, SHARD)
    assert storage.read(ranges) == _wanted(ranges)
    with pytest.raises(Missing):
        storage.stat("s3://shards/none.tar")
    with pytest.raises(Denied):
        storage.stat("s3://other/none.tar")


def test_a_wrong_secret_is_denied_and_not_shown(as_user):
    with pytest.raises(Denied, match=r"^s3://shards/train/a 0.tar: access is denied") as error:
        as_user(READER[0], "wrongSECRET").stat(SHARD)
    assert "SECRET" not in str(error.value)
    assert READER[0] not in str(error.value)


def test_the_store_denies_the_anonymous(as_user):
    with pytest.raises(Denied, match="no credentials were found"):
        as_user().stat(SHARD)


def test_an_object_replaced_in_the_store(as_user, weed):
    client = _client(weed[1], *WRITER)
    client.put_object(Bucket="shards", Key="b.tar", Body=DATA)
    storage = as_user(*READER)
    ranges = _ranges(storage, "s3://shards/b.tar")
    client.put_object(Bucket="shards", Key="b.tar", Body=DATA[::-1])
    with pytest.raises(Changed):
        storage.read(ranges)


def test_signed_urls_of_the_store(as_user, weed):
    client = _client(weed[1], *READER)
    url, expired = (
        client.generate_presigned_url("get_object", {"Bucket": "shards", "Key": "train/a 0.tar"}, ExpiresIn=seconds)
        for seconds in (600, 1)
    )
    storage = as_user()
    ranges = _ranges(storage, url)
    assert storage.read(ranges) == _wanted(ranges)
    time.sleep(2.5)
    with pytest.raises(Denied, match=r"a%200.tar\?\*\*\*: .*a signed URL may have expired") as error:
        storage.stat(expired)
    assert READER[0] not in str(error.value)


def test_a_store_killed_and_started_again(as_user, weed):
    storage = as_user(*READER, StorageSettings(deadline=90))  # it takes a while until its parts have found each other
    ranges = _ranges(storage, SHARD)
    weed[0].kill()
    again = threading.Timer(0.5, weed[0].start)
    again.start()
    assert storage.read(ranges) == _wanted(ranges)
    again.join()
    assert storage.num_retries > 0


def test_elastic_resume_over_a_web_server_and_a_store(nginx, weed, as_user, make_shards, global_batches):
    paths = make_shards(24, 6)
    client = _client(weed[1], *WRITER)
    for path in paths:
        (Path(nginx[0].command[2]) / "www" / path.name).write_bytes(path.read_bytes())
        client.put_object(Bucket="shards", Key=path.name, Body=path.read_bytes())
    storage = as_user(*READER)

    def keys(shards: list[str], stages: list[tuple[int, int, int]]) -> list[list[str]]:
        return global_batches(ShardDataset(shards, Preprocess(ImageTransform(16)), storage=storage), stages)

    expected = keys([str(path) for path in paths], [(1, 0, 9)])
    stages = [(2, 2, 3), (1, 0, 3), (4, 1, 3)]
    assert keys([f"{nginx[1]}/{path.name}" for path in paths], stages) == expected
    assert keys([f"s3://shards/{path.name}" for path in paths], stages) == expected
