from __future__ import annotations

import os
import tarfile
import zlib

import numpy as np
import pytest

from diffusion_train.data.shard import index_file
from diffusion_train.data.shard.index_file import open_index
from diffusion_train.data.shard.scan import build_index


@pytest.fixture
def unread(monkeypatch):
    """Fails where a shard is walked again."""

    def forbid():
        def refuse(url, storage):
            raise AssertionError(f"{url} was read again")

        monkeypatch.setattr(index_file, "build_index", refuse)

    return forbid


def _pairs(shards):
    """{key: (image bytes, caption bytes)} as the index says."""
    pairs = {}
    for shard in shards:
        with open(shard.url, "rb") as file:
            data = file.read()
        for number in range(len(shard)):
            members = shard.sample(number)
            pairs[shard.key(number)] = tuple(data[o : o + s] for o, s in (members["png"], members["txt"]))
    return pairs


def test_members_lie_where_the_index_says(make_shards, make_png):
    [path] = make_shards(5, 5)
    assert _pairs([build_index(path)]) == {f"k{i:05d}": (make_png(i), f"caption {i}".encode()) for i in range(5)}


def test_checksums_and_sizes_of_images_are_kept(make_tar, make_png):
    path = make_tar([("a.txt", b"caption"), ("a.png", make_png(0, 30, 7))])
    caption, image = build_index(path).members
    assert caption["crc"] == zlib.crc32(b"caption")
    assert (image["width"], image["height"]) == (30, 7)


@pytest.mark.parametrize(
    ("name", "key", "extension"),
    [
        ("a.PNG", "a", "png"),
        ("a.v1.png", "a", "v1.png"),
        ("x.y/a.png", "x.y/a", "png"),
        ("../../etc/x.png", "../../etc/x", "png"),
        ("$(touch canary).png", "$(touch canary)", "png"),
    ],
)
def test_keys_follow_webdatasets_rule(make_tar, name, key, extension):
    shard = build_index(make_tar([(name, b"data")]))
    assert (shard.key(0), list(shard.sample(0))) == (key, [extension])


def test_what_is_no_file_of_a_sample_is_counted(make_tar, make_png):
    link = tarfile.TarInfo("b.png")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    path = make_tar([("a.png", make_png(0)), link, ("README", b"no extension"), ("._a.png", b"hidden")])
    shard = build_index(path)
    assert (len(shard), shard.num_ignored) == (1, 3)


def _flip(data: bytes, byte: int) -> bytes:
    return data[:byte] + bytes([data[byte] ^ 4]) + data[byte + 1 :]


FAULTS = {
    "zeros": (lambda data: bytes(2048), "empty-shard", "contains no sample"),
    "header": (lambda data: _flip(data, 1030), "damaged-header", "the header has a wrong checksum"),
    "joined": (lambda data: data + data, "trailing-data", "data after the end"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_damaged_files_are_named(make_tar, make_png, fault):
    path = make_tar([("a.txt", b"caption"), ("a.png", make_png(0))])
    damage, rule, message = FAULTS[fault]
    path.write_bytes(damage(path.read_bytes()))
    [problem] = [problem for problem in open_index(path).problems if problem.rule == rule]
    assert problem.shard == str(path)
    assert problem.detail.startswith(message)


def test_a_license_in_the_json_is_known(make_tar, make_png):
    members = [
        ("a.json", b'{"license": "CC0-1.0"}'),
        ("b.json", b"{}"),
        ("c.json", b"[" * 100_000),
        ("d.png", make_png(0)),
    ]
    shard = build_index(make_tar(members))
    assert shard.licenses == ["CC0-1.0"]
    assert shard.license.tolist() == [0, -1, -1, -1]


def test_a_kept_index_is_used_and_equals_a_new_one(make_shards, unread):
    [path] = make_shards(4, 4)
    first = open_index(path)
    assert path.with_name(path.name + ".index.npz").is_file()
    unread()
    second = open_index(path)
    assert first.__dict__.keys() == second.__dict__.keys()
    for name, value in first.__dict__.items():
        assert np.array_equal(value, second.__dict__[name]), name


@pytest.mark.parametrize("change", ["content", "time", "format", "damage"])
def test_an_index_of_another_time_is_made_anew(make_tar, make_png, monkeypatch, change):
    path = make_tar([("a.png", make_png(0))])
    old = open_index(path)
    kept = path.with_name(path.name + ".index.npz")
    if change == "content":
        make_tar([("b.png", make_png(0)), ("c.png", make_png(1))])
    elif change == "time":
        make_tar([("b.png", make_png(0))])
        os.utime(path, ns=(0, int(old.version.split(":")[1]) + 1))
    elif change == "format":
        monkeypatch.setattr(index_file, "FORMAT", index_file.FORMAT + 1)
    else:
        data = kept.read_bytes()
        kept.write_bytes(data[:100] + b"\xff" + data[101:])
    assert _same(open_index(path), build_index(path))


def _same(one, two):
    return (one.digest, one.version, one.keys.tolist()) == (two.digest, two.version, two.keys.tolist())


def test_a_folder_that_cannot_be_written_keeps_the_index_in_the_cache(make_shards, tmp_path, unread):
    [path] = make_shards(4, 4)
    path.with_name(path.name + ".index.npz").mkdir()  # nothing can take this name now, not even for root
    first = open_index(path)
    assert len(list((tmp_path / "cache" / "index").iterdir())) == 1
    unread()
    assert _same(open_index(path), first)


def test_one_changed_byte_changes_the_fingerprint(make_tar, make_png):
    members = [("a.png", make_png(0)), ("a.txt", b"caption")]
    before = build_index(make_tar(members)).digest
    assert build_index(make_tar([members[0], ("a.txt", b"captioN")])).digest != before
