from __future__ import annotations

import os
import tarfile
import zlib

import numpy as np
import pytest

from diffusion_train.data import index
from diffusion_train.data.collection import find_shards, open_shards
from diffusion_train.data.index import DataError, build_index, open_index


@pytest.fixture
def unread(monkeypatch):
    """Fails where a shard is walked again."""

    def forbid():
        def refuse(path):
            raise AssertionError(f"{path} was read again")

        monkeypatch.setattr(index, "build_index", refuse)

    return forbid


def _pairs(shards):
    """{key: (image bytes, caption bytes)} as the index says."""
    pairs = {}
    for shard in shards:
        with open(shard.path, "rb") as file:
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


def test_unsorted_members_are_brought_together(make_tar, make_png):
    path = make_tar([("a.txt", b"of a"), ("b.txt", b"of b"), ("a.png", make_png(1)), ("b.png", make_png(2))])
    collection = open_shards(path, captions_required=True)
    assert _pairs(collection.shards) == {"a": (make_png(1), b"of a"), "b": (make_png(2), b"of b")}


def test_what_is_no_file_of_a_sample_is_counted(make_tar, make_png):
    link = tarfile.TarInfo("b.png")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    path = make_tar([("a.png", make_png(0)), link, ("README", b"no extension"), ("._a.png", b"hidden")])
    shard = build_index(path)
    assert (len(shard), shard.num_ignored) == (1, 3)


def test_a_cut_shard_is_refused_wherever_it_is_cut(make_shards):
    [path] = make_shards(2, 2)
    data = path.read_bytes()
    end = len(data.rstrip(b"\0")) // 512 * 512 + 512
    for cut in [edge + shift for edge in range(512, end + 512, 512) for shift in (-1, 0, 1)]:
        path.write_bytes(data[:cut])
        with pytest.raises(DataError, match=r"part-000000.tar at byte \d+: "):
            build_index(path)


def _flip(data: bytes, byte: int) -> bytes:
    return data[:byte] + bytes([data[byte] ^ 4]) + data[byte + 1 :]


FAULTS = {
    "empty": (lambda data: b"", "byte 0: empty file"),
    "web-page": (lambda data: b"<html><body>404</body></html>" * 40, "byte 0: not a tar: starts with '<html>"),
    "gzip": (lambda data: b"\x1f\x8b\x08" + data, "byte 0: compressed with gzip"),
    "zeros": (lambda data: bytes(2048), "holds no sample"),
    "header": (lambda data: _flip(data, 1030), "byte 1024: the header's checksum"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_damaged_files_are_named(make_tar, make_png, fault):
    path = make_tar([("a.txt", b"caption"), ("a.png", make_png(0))])
    damage, message = FAULTS[fault]
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=message):
        open_index(path)


def test_all_problems_of_all_shards_are_told_at_once(make_tar, make_png):
    image = make_png(0)
    space = 512 + -(-len(image) // 512) * 512  # of an image in a tar
    torn = make_tar([("a.png", image)], "torn.tar")
    torn.write_bytes(torn.read_bytes()[:700])
    paths = [
        torn,
        make_tar([("a.png", image), ("a.txt", b"1"), ("a.txt", b"2"), ("a.png", image)], "twice.tar"),
        make_tar([("a.txt", b""), ("b.png", image), ("c.png", image), ("c.jpg", image), ("c.txt", b"")], "lacking.tar"),
        make_tar([("a.txt", b""), ("a.png", image[:20])], "broken.tar"),
        torn.with_name("absent.tar"),
        "https://example.org/x.tar",
        "pipe:touch canary",
    ]
    with pytest.raises(DataError) as error:
        open_shards(paths, captions_required=True)
    found = [(problem.shard.rsplit("/")[-1], problem.offset, problem.reason[:28]) for problem in error.value.problems]
    assert sorted(found, key=str) == sorted(
        [
            ("torn.tar", 0, f"member 'a.png' needs {len(image)} by"),
            ("twice.tar", space + 1024, "member 'a.txt' again, first "),
            ("twice.tar", space + 2048, "member 'a.png' again, first "),
            ("lacking.tar", 512, "sample 'a': no image (jpg, j"),
            ("lacking.tar", 1024, "sample 'b': no caption (txt;"),
            ("lacking.tar", 1024 + space, "sample 'c': more than one im"),
            ("broken.tar", 512, "sample 'a': the image cannot"),
            ("absent.tar", None, "no such file"),
            ("x.tar", None, "https:// cannot be read; sha"),
            ("pipe:touch canary", None, "pipe: cannot be read; shards"),
        ],
        key=str,
    )


def test_captions_may_be_absent_where_asked_for(make_tar, make_png):
    collection = open_shards(make_tar([("a.png", make_png(0))]), captions_required=False)
    assert collection.caption_rows[0].tolist() == [-1]


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
        os.utime(path, ns=(0, old.mtime_ns + 1))
    elif change == "format":
        monkeypatch.setattr(index, "FORMAT", index.FORMAT + 1)
    else:
        data = kept.read_bytes()
        kept.write_bytes(data[:100] + b"\xff" + data[101:])
    assert _same(open_index(path), build_index(path))


def _same(one, two):
    return (one.digest, one.mtime_ns, one.keys.tolist()) == (two.digest, two.mtime_ns, two.keys.tolist())


def test_a_folder_that_cannot_be_written_keeps_the_index_in_the_cache(make_shards, tmp_path, unread):
    [path] = make_shards(4, 4)
    path.with_name(path.name + ".index.npz").mkdir()  # nothing can take this name now, not even for root
    first = open_index(path)
    assert len(list((tmp_path / "cache" / "index").iterdir())) == 1
    unread()
    assert _same(open_index(path), first)


def test_the_fingerprint_knows_contents_not_places(make_shards, tmp_path):
    here = open_shards(make_shards(6, 3, "here"), captions_required=True)
    there = open_shards(make_shards(6, 3, "there"), captions_required=True)
    fewer = open_shards(make_shards(5, 3, "fewer"), captions_required=True)
    swapped = open_shards(list(reversed([shard.path for shard in here.shards])), captions_required=True)
    assert here.fingerprint == there.fingerprint
    assert len({here.fingerprint, fewer.fingerprint, swapped.fingerprint}) == 3


def test_one_changed_byte_changes_the_fingerprint(make_tar, make_png):
    members = [("a.png", make_png(0)), ("a.txt", b"caption")]
    before = build_index(make_tar(members)).digest
    assert build_index(make_tar([members[0], ("a.txt", b"captioN")])).digest != before


@pytest.mark.parametrize(
    ("patterns", "names"),
    [
        ("{root}/p-{{0..2}}.tar", ["p-0.tar", "p-1.tar", "p-2.tar"]),
        ("{root}/*.tar", ["p-0.tar", "p-1.tar", "p-2.tar", "p-{x}.tar"]),
        (["{root}/p-2.tar", "{root}/p-0.tar"], ["p-2.tar", "p-0.tar"]),
        ("{root}/p-{{x}}.tar", ["p-{x}.tar"]),
    ],
    ids=["braces", "wildcards", "list", "a-file-named-with-braces"],
)
def test_patterns_name_files(tmp_path, patterns, names):
    for name in ("p-0", "p-1", "p-2", "p-{x}"):
        (tmp_path / f"{name}.tar").touch()
    one = isinstance(patterns, str)
    given = patterns.format(root=tmp_path) if one else [pattern.format(root=tmp_path) for pattern in patterns]
    paths, problems = find_shards(given)
    assert ([path.name for path in paths], problems) == (names, [])


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("absent-{0..1}.tar", "matched 0 files"),
        ("absent-*.tar", "matched 0 files"),
        ("x-{0..1.tar", "braces"),
        ([], "no sh"),
    ],
    ids=["braces", "wildcards", "unbalanced", "none"],
)
def test_patterns_that_match_nothing_are_named(pattern, message):
    with pytest.raises(DataError, match=message):
        open_shards(pattern, captions_required=True)


def test_a_shard_given_twice_is_refused(make_shards, tmp_path):
    [path] = make_shards(2, 2)
    (tmp_path / "again.tar").symlink_to(path)
    with pytest.raises(DataError, match=r"again.tar: given twice"):
        open_shards([path, tmp_path / "again.tar"], captions_required=True)
