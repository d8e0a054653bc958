"""Shards that are torn, damaged, or no tars at all."""

from __future__ import annotations

import re

import pytest

from diffusion_train.data.shard.problem import DataError
from diffusion_train.data.shard.scan import build_index
from diffusion_train.utils.exit_code import Exit


@pytest.fixture
def two_shards(make_tar, make_png):
    """The second begins with the key that the first one ends with, as shards written apart do."""

    def make():
        names = [["a", "b", "c"], ["c", "d", "e"]]
        return [
            make_tar(
                [
                    member
                    for place, key in enumerate(keys)
                    for member in (
                        (f"{key}.png", make_png(10 * shard + place)),
                        (f"{key}.txt", b"%s of shard %d" % (key.encode(), shard)),
                    )
                ],
                f"{shard}.tar",
            )
            for shard, keys in enumerate(names)
        ]

    return make


def _cuts(path):
    """Lengths around every block's edge up to the whole end marker: those inside a member's data, and all others."""
    end = len(path.read_bytes().rstrip(b"\0")) // 512 * 512 + 512
    lengths = {edge + shift for edge in range(512, end + 1024, 512) for shift in (-1, 0, 1)} - {end + 1024, end + 1025}
    inside = {
        length
        for _, offset, size, *_ in build_index(path).members.tolist()
        for length in lengths
        if offset < length < offset + size
    }
    return sorted(inside), sorted(lengths - inside)


def _check_every_cut(paths, lengths, make_dataset, pairs):
    """Of the cut shard exactly the samples before the cut come out, of the other one all, and never a mixture."""
    torn, data = paths[0], paths[0].read_bytes()
    truth = pairs(make_dataset(paths))
    ends = {
        index.key(number): max(offset + size for offset, size in index.sample(number).values())
        for index in [build_index(torn)]
        for number in range(3)
    }
    for length in lengths:
        torn.write_bytes(data[:length])
        dataset = make_dataset(paths, faults="tolerant")
        before = {key for key, end in ends.items() if end <= length}
        expected = {pair for pair in truth if pair[2].endswith("shard 1") or pair[0] in before}
        assert pairs(dataset) == expected, length
        [problem] = [problem for problem in dataset.problems if problem.rule == "torn-shard"]
        assert problem.shard == str(torn)
        assert problem.offset <= length
        assert f"{torn} at byte {problem.offset}: " in str(problem)
    with pytest.raises(DataError, match=f"{torn} at byte {problem.offset}: "):
        make_dataset(paths)


def test_a_tar_cut_in_the_data_of_a_member(two_shards, make_dataset, pairs, train):
    paths = two_shards()
    inside, _ = _cuts(paths[0])
    assert len(inside) >= 9
    _check_every_cut(paths, inside, make_dataset, pairs)
    paths = two_shards()
    paths[0].write_bytes(paths[0].read_bytes()[: inside[-3]])
    strict = train(paths, folder="strict")
    assert strict.code == Exit.WRONG
    assert f"{paths[0]} at byte " in strict.told
    assert "truncated" in strict.told
    assert "data.faults=tolerant" in strict.told
    tolerant = train(paths, "data.faults=tolerant", folder="tolerant")
    assert tolerant.code == Exit.DONE, tolerant.told
    assert {one["shard"] for one in tolerant.bad} == {str(paths[0])}
    assert tolerant.bad[0]["rule"] == "torn-shard"
    assert tolerant.bad[0]["offset"] > 0
    assert tolerant.num_bad == len(tolerant.bad)
    assert tolerant.keys == {"a", "b", "c", "d", "e"}


def test_a_tar_cut_in_a_header_or_at_the_edge_of_a_member(two_shards, make_dataset, pairs):
    paths = two_shards()
    _, others = _cuts(paths[0])
    assert len(others) >= 30
    _check_every_cut(paths, others, make_dataset, pairs)


def _check_flips(path, truth, headers, bits, given):
    """Of damaged headers nothing wrong comes out, and what is lost is told and is no more than two samples."""
    data = path.read_bytes()
    for header in headers:
        for byte in range(header, header + 512):
            for bit in bits:
                path.write_bytes(data[:byte] + bytes([data[byte] ^ 1 << bit]) + data[byte + 1 :])
                found, problems = given(path)
                assert found <= truth, (byte, bit)
                assert problems or found == truth, (byte, bit)
                assert len(found) >= len(truth) - 2, (byte, bit)
    path.write_bytes(data)


def _headers(path):
    return sorted(int(offset) - 512 for offset in build_index(path).members["offset"])


def _indexed(path):
    """What an index says is there: (key, image's bytes, caption's bytes); and what it says is wrong."""
    index, data = build_index(path), path.read_bytes()
    members = [(index.key(number), index.sample(number)) for number in range(len(index))]
    found = {
        (key, *(data[place:][:size] for place, size in (one["png"], one["txt"])))
        for key, one in members
        if {"png", "txt"} <= one.keys()
    }
    return found, index.problems


def test_a_flipped_bit_of_a_header(two_shards, make_dataset, pairs):
    path = two_shards()[0]
    headers = _headers(path)
    _check_flips(path, _indexed(path)[0], headers[1:3], [0], _indexed)
    second, whole = headers[2], path.read_bytes()
    path.write_bytes(whole[:second] + b"x" + whole[second + 1 :])
    with pytest.raises(DataError, match=rf"{path} at byte {second}: the header has a wrong checksum"):
        make_dataset(path)
    assert {key for key, _, _ in pairs(make_dataset(path, faults="tolerant"))} == {"a", "c"}


@pytest.mark.slow
def test_every_flipped_bit_of_headers(two_shards, make_dataset, pairs):
    path = two_shards()[0]
    _check_flips(path, _indexed(path)[0], _headers(path)[1:5], range(8), _indexed)

    def delivered(path):
        dataset = make_dataset(path, faults="tolerant")
        return pairs(dataset), dataset.problems

    _check_flips(path, pairs(make_dataset(path)), _headers(path)[2:3], [2], delivered)


def test_a_zero_byte_shard(two_shards, train):
    paths = two_shards()
    paths[0].open("wb").close()
    strict = train(paths, folder="strict")
    assert strict.code == Exit.WRONG
    assert f"{paths[0]} at byte 0: empty file" in strict.told
    tolerant = train(paths, "data.batch_size=3", "data.faults=tolerant", folder="tolerant")
    assert tolerant.code == Exit.DONE
    assert [(one["rule"], one["shard"], one["detail"]) for one in tolerant.bad] == [
        ("empty-shard", str(paths[0]), "empty file")
    ]
    assert tolerant.num_bad == 1
    assert tolerant.keys == {"c", "d", "e"}


@pytest.mark.parametrize("page", ["<html><body>404", '<?xml version="1.0"?><Error/>'], ids=["html", "xml"])
def test_a_page_of_html_or_xml_as_a_shard(server, make_dataset, page):
    server.objects["/part.tar"] = f"\n{page}".encode() * 40
    url = server.url("/part.tar")
    with pytest.raises(DataError, match=rf"{url} at byte 0: not a tar: starts with '{re.escape(page[:6])}"):
        make_dataset(url)


@pytest.mark.parametrize(
    ("magic", "kind"), [(b"\x1f\x8b\x08", "gzip"), (b"\x28\xb5\x2f\xfd", "zstd")], ids=["gzip", "zstd"]
)
def test_a_compressed_tar(two_shards, make_dataset, magic, kind):
    path = two_shards()[0]
    path.write_bytes(magic + path.read_bytes())
    with pytest.raises(DataError, match=f"{path} at byte 0: compressed with {kind}: decompress it"):
        make_dataset(path)
