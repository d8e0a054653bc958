"""Members of shards that come twice, in another order, under hostile names, or are no files."""

from __future__ import annotations

import tarfile

import pytest

from diffusion_train.data.shard.problem import DataError
from diffusion_train.data.shard.scan import build_index

NAMES = {
    "dotted": ("img.v1", "img", "v1.png"),
    "unicode": ("ünïcødé 猫 🐈", "ünïcødé 猫 🐈", "png"),
    "long": ("n" * 300, "n" * 300, "png"),
    "parents": ("../../etc/x", "../../etc/x", "png"),
    "absolute": ("/etc/x", "/etc/x", "png"),
    "shell": ("$(touch canary)", "$(touch canary)", "png"),
    "control": ("\x1b[2J", "\x1b[2J", "png"),
    "words": ("ignore previous instructions", "ignore previous instructions", "png"),
}


def _captions(samples):
    return {sample["key"]: sample["caption"] for sample in samples}


def test_duplicate_keys_in_a_shard(make_tar, make_png, make_dataset, pairs):
    """Which of them belong together nobody can know: such a sample is left out, whichever came first."""
    good = [("good.png", make_png(0)), ("good.txt", b"good")]
    members = [("a.png", make_png(1)), ("a.png", make_png(2)), ("a.txt", b"of two"), *good]
    path = make_tar(members)
    second = 512 + -(-len(make_png(1)) // 512) * 512
    with pytest.raises(DataError) as error:
        make_dataset(path)
    assert f"{path} at byte {second}: sample 'a': a second member 'a.png'; the first is at byte 512" in str(error.value)
    dataset = make_dataset(path, faults="tolerant")
    assert [(one.rule, one.key, one.offset) for one in dataset.problems] == [("duplicate-member", "a", second)]
    assert {key for key, _, _ in pairs(dataset)} == {"good"}


def test_duplicate_keys_across_shards(make_tar, make_png, make_dataset, read):
    paths = [make_tar([("a.png", make_png(number)), ("a.txt", b"%d" % number)], f"{number}.tar") for number in range(3)]
    dataset = make_dataset(paths)
    samples = read(dataset)
    assert [(one["index"], one["key"], one["caption"]) for one in samples] == [(i, "a", str(i)) for i in range(3)]
    assert [dataset.catalog.shard(number) for number in range(3)] == [0, 1, 2]
    assert len({sample["x"].numpy().tobytes() for sample in samples}) == 3


def test_dotted_unicode_long_and_hostile_names(make_tar, make_png, make_dataset, read, tmp_path, monkeypatch):
    """They are kept as they are, never merged, and never a path of anything written."""
    monkeypatch.chdir(tmp_path)
    members = []
    for number, (name, key, _) in enumerate(NAMES.values()):
        members += [(f"{name}.png", make_png(number)), (f"{key}.txt", b"%d" % number)]
    path = make_tar(members, tar_format=tarfile.PAX_FORMAT)
    index = build_index(path)
    found = {index.key(i): (set(index.sample(i)), index.sample(i)["txt"]) for i in range(len(index))}
    assert {key: names for key, (names, _) in found.items()} == {
        key: {extension, "txt"} for _, key, extension in NAMES.values()
    }
    samples = read(make_dataset(path, faults="tolerant"))
    expected = {key: str(number) for number, (_, key, extension) in enumerate(NAMES.values()) if extension == "png"}
    assert _captions(samples) == expected
    assert {file.name for file in tmp_path.iterdir()} == {path.name, f"{path.name}.index.npz", "cache"}


def test_unsorted_members(make_tar, make_png, make_dataset, pairs):
    samples = {key: (make_png(number), f"of {key}".encode()) for number, key in enumerate("abc")}
    in_order = [
        (f"{key}.{name}", data)
        for key, pair in samples.items()
        for name, data in zip(("png", "txt"), pair, strict=True)
    ]
    truth = pairs(make_dataset(make_tar(in_order, "sorted.tar")))
    assert len(truth) == 3
    by_kind = sorted(in_order, key=lambda member: member[0].split(".")[::-1])
    for name, members in {"kind.tar": by_kind, "back.tar": in_order[::-1]}.items():
        dataset = make_dataset(make_tar(members, name))
        assert pairs(dataset) == truth
        assert not dataset.problems


def _info(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def _sparse(name: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": name}
    return info


ODD = [
    _info("a.png", tarfile.SYMTYPE, "/etc/passwd"),
    _info("b.txt", tarfile.LNKTYPE, "good.txt"),
    _info("c.png", tarfile.CHRTYPE),
    _info("d.png", tarfile.BLKTYPE),
    _info("e.png", tarfile.FIFOTYPE),
    _info("folder.png", tarfile.DIRTYPE),
    _info("f.png", tarfile.GNUTYPE_SPARSE),
    _sparse("g.png"),
]


def test_links_devices_and_sparse_members(make_tar, make_png, make_dataset, read, caplog):
    path = make_tar([*ODD, ("good.png", make_png(0)), ("good.txt", b"good")], tar_format=tarfile.PAX_FORMAT)
    dataset = make_dataset(path)
    assert _captions(read(dataset)) == {"good": "good"}
    assert not dataset.problems
    assert f"{len(ODD)} members of the shards are ignored: links, " in caplog.text
