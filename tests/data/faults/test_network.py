"""Faults between a run and its shards on a web server."""

from __future__ import annotations

import random
import re
import time

import pytest
import torch

from diffusion_train.data.order.order import Draw
from diffusion_train.data.shard.index_file import open_index
from diffusion_train.data.storage.base import Changed, StorageError
from diffusion_train.data.storage.by_scheme import StorageByScheme
from diffusion_train.data.storage.settings import StorageSettings
from diffusion_train.utils.exit_code import Exit

QUICK = StorageSettings(connect_timeout=0.5, read_timeout=0.3, deadline=1, min_speed=200_000)
HASTY = [f"data.storage.{name}" for name in ("connect_timeout=1", "read_timeout=1", "deadline=1")]
DRAWS = [Draw(0, index) for index in range(12)]
SECRET = "CANARY0123456789abcdef"


@pytest.fixture
def served(make_shards, server):
    """Local shards with their index, and the same on the server."""
    paths = make_shards(12, 6)
    for path in paths:
        open_index(path)
        for file in (path, path.with_name(f"{path.name}.index.npz")):
            server.objects[f"/{file.name}"] = file.read_bytes()
    return paths, [server.url(f"/{path.name}") for path in paths]


@pytest.fixture
def remote(served, make_dataset):
    return make_dataset(served[1], storage=StorageByScheme(QUICK))


@pytest.fixture
def same_as_local(served, make_dataset):
    """Fails unless the samples read over the network are those of the local shards."""

    def check(dataset):
        for ours, theirs in zip(dataset.read(DRAWS), make_dataset(served[0]).read(DRAWS), strict=True):
            assert torch.equal(ours["x"], theirs["x"])
            assert (ours["key"], ours["caption"], ours["bad"]) == (theirs["key"], theirs["caption"], "")

    return check


def _once_running(tmp_path, behave):
    """What a server does once a run has made its first step; all is well before."""
    seen = tmp_path / "run" / "samples_seen.jsonl"
    return lambda handler: behave(handler) if seen.exists() and seen.stat().st_size else handler.ok()


def test_503_then_ok(remote, server, same_as_local, caplog):
    server.plan += [lambda handler: handler.status(503)] * 2
    with caplog.at_level("INFO"):
        same_as_local(remote)
    assert remote.storage.num_retries == 2
    assert "503; again in" in caplog.text


@pytest.mark.parametrize("seed", range(3))
def test_a_connection_cut_in_the_middle_of_a_shard(remote, server, same_as_local, seed):
    """It goes on from the byte reached: what was received is not asked for again."""
    draw = random.Random(seed)
    cuts = [draw.randrange(1, 3000) for _ in range(3)]
    server.plan += [lambda handler, cut=cut: handler.cut(cut) for cut in cuts]
    before = len(server.seen)
    same_as_local(remote)
    assert 1 <= remote.storage.num_retries <= 3
    asked = [request for request in server.seen[before:] if request.path == "/part-000000.tar"]
    starts = [int(re.match(r"bytes=(\d+)", request.headers["Range"])[1]) for request in asked]
    assert starts == sorted(starts)
    assert len(set(starts)) == len(starts)


@pytest.mark.parametrize("how", ["cut_without_length", "cut_chunked"])
def test_a_cut_without_a_length(remote, server, same_as_local, how):
    """Looks like the end of the answer; the size in the index says that it is not."""
    server.plan.extend([lambda handler: getattr(handler, how)(after=700)] * 2)
    same_as_local(remote)
    assert remote.storage.num_retries >= 1


@pytest.mark.parametrize(
    "how", ["stall", *(pytest.param(how, marks=pytest.mark.slow) for how in ("stall_in_body", "trickle"))]
)
def test_a_slow_or_stalled_server(served, remote, server, same_as_local, how):
    server.plan.append(lambda handler: getattr(handler, how)())
    same_as_local(remote)
    assert remote.storage.num_retries == 1
    server.always = lambda handler: getattr(handler, how)()
    start = time.monotonic()
    with pytest.raises(StorageError, match=rf"^{re.escape(served[1][0])}: .*gave up after \d+ attempts"):
        remote.read(DRAWS[:1])
    assert time.monotonic() - start < 3


@pytest.mark.slow
def test_a_server_that_stalls_for_good_ends_the_run(served, server, train, tmp_path):
    stalls: list[float] = []
    server.always = _once_running(tmp_path, lambda handler: (stalls.append(time.monotonic()), handler.stall()))
    run = train(served[1], "trainer.max_steps=1000", *HASTY)
    assert run.code == Exit.STORAGE
    assert time.monotonic() - stalls[0] < 30  # the server hangs up after that
    assert re.search(r"data: http://127\.0\.0\.1.*gave up after \d+ attempts", run.told)


def test_a_shard_replaced_during_the_run(served, server, train, make_dataset, tmp_path):
    """Local and remote: an error, and never a mixture of samples."""
    local, urls = served
    server.always = _once_running(
        tmp_path,
        lambda handler: (server.objects.update({"/part-000001.tar": server.objects["/part-000000.tar"]}), handler.ok()),
    )
    run = train(urls, "trainer.max_steps=1000", *HASTY)
    assert run.code == Exit.STORAGE
    assert f"data: {urls[1]}: changed since it was indexed" in run.told
    dataset = make_dataset(local)
    local[1].write_bytes(local[0].read_bytes())
    with pytest.raises(Changed, match=f"{local[1]}: changed since it was indexed; restart to index it again"):
        dataset.read(DRAWS)


EXPIRED = b"<Error><Code>ExpiredToken</Code><Token>%b</Token></Error>" % SECRET.encode()


@pytest.mark.slow
def test_denied_absent_and_expired_shards(served, server, train, tmp_path):
    """All at the start with their addresses, and later the end of the run; secrets are in no message."""
    signed = f"{served[1][0]}?X-Amz-Signature={SECRET}"
    server.always = lambda handler: handler.status(403) if SECRET in handler.path else handler.ok()
    run = train([signed, server.url("/absent.tar")], *HASTY, folder="start")
    assert run.code == Exit.WRONG
    assert f"{served[1][0]}?***: " in run.told
    assert f"{server.url('/absent.tar')}: " in run.told
    assert "403" in run.told
    assert "404" in run.told
    server.always = _once_running(tmp_path, lambda handler: handler.status(400, EXPIRED))
    later = train([signed, served[1][1]], "trainer.max_steps=1000", *HASTY)
    assert later.code == Exit.STORAGE
    assert "ExpiredToken" in later.told
    for told in (run.told, later.told):
        assert SECRET not in told
