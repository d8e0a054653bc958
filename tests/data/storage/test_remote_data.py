"""Whole data sets read over the network are the local ones."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from diffusion_train.command import cli
from diffusion_train.data.dataset import ShardDataset
from diffusion_train.data.image.preprocess import Preprocess
from diffusion_train.data.image.transform import ImageTransform
from diffusion_train.data.order.order import Draw
from diffusion_train.data.shard.catalog_builder import open_shards
from diffusion_train.data.shard.index_file import open_index
from diffusion_train.data.shard.problem import DataError
from diffusion_train.data.storage.by_scheme import StorageByScheme
from diffusion_train.data.storage.settings import StorageSettings
from diffusion_train.utils.exit_code import Exit

QUICK = StorageSettings(connect_timeout=1, read_timeout=0.5, deadline=2)


def _dataset(shards: Sequence[str], **options) -> ShardDataset:
    return ShardDataset(shards, Preprocess(ImageTransform(16)), storage=StorageByScheme(replace(QUICK, **options)))


@pytest.fixture
def served(make_shards, server):
    """Local shards, and the same shards on the server."""
    paths = make_shards(24, 6)
    for path in paths:
        server.objects[f"/{path.name}"] = path.read_bytes()
    return [str(path) for path in paths], [server.url(f"/{path.name}") for path in paths]


def test_elastic_resume_over_http_is_as_local(served, global_batches):
    local, remote = served
    expected = global_batches(_dataset(local), [(1, 0, 9)])
    assert global_batches(_dataset(remote), [(2, 2, 3), (1, 0, 3), (4, 1, 3)]) == expected
    assert _dataset(remote).fingerprint == _dataset(local).fingerprint


def test_an_uploaded_index_spares_reading_the_shards(served, server):
    local, remote = served
    for path in local:
        open_index(path)
        server.objects[f"/{path.rsplit('/', 1)[-1]}.index.npz"] = Path(f"{path}.index.npz").read_bytes()
    catalog = open_shards(remote, StorageByScheme(QUICK))
    assert [catalog.key(i) for i in range(24)] == [f"k{i:05d}" for i in range(24)]
    tars = [seen.headers["Range"] for seen in server.seen if seen.path.endswith(".tar")]
    assert all(int(asked.rpartition("-")[2]) <= 1 << 16 for asked in tars), tars  # no more than a look at the size


@pytest.mark.slow
def test_check_finds_what_was_damaged_after_its_index_was_uploaded(make_shards, server, tmp_path):
    [path] = make_shards(300, 300)
    open_index(path)
    server.objects["/part.tar.index.npz"] = Path(f"{path}.index.npz").read_bytes()
    server.objects["/part.tar"] = path.read_bytes().replace(b"caption 290", b"caption 295")
    arguments = [f"data.shards={server.url('/part.tar')}", f"out={tmp_path / 'out'}", "data.image_size=16"]
    assert cli.main(["check", *arguments, "num_workers=2", "ignore=[unknown-license]"]) == Exit.FOUND
    report = json.loads((tmp_path / "out" / "report.json").read_text("utf-8"))
    assert [(one["rule"], one["key"]) for one in report] == [("checksum", "k00290")]


def test_a_server_that_fails_while_shards_are_indexed_is_told_as_a_fault_of_the_data(server, served):
    _, remote = served
    server.always = lambda handler: handler.ok() if handler.headers["Range"] == "bytes=0-0" else handler.status(403)
    with pytest.raises(DataError, match=r"data\.shards cannot be indexed: http.*403"):
        _dataset(remote[:1])


def test_a_cache_gives_the_same_samples(served, tmp_path, server):
    _, remote = served
    dataset = _dataset(remote, cache_folder=tmp_path / "blocks", cache_bytes=1 << 30)
    draws = [Draw(0, i) for i in range(24)]
    first = [sample["key"] for sample in dataset.read(draws)]
    asked = len(server.seen)
    assert [sample["key"] for sample in dataset.read(draws)] == first
    assert len(server.seen) == asked
