from __future__ import annotations

import hashlib
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
from colour_profiles import ONLY_BLACK_INK, SRGB, WIDE, encoded
from PIL import Image

from diffusion_train.data.shard import catalog_builder
from diffusion_train.data.shard.catalog_builder import open_shards
from diffusion_train.data.shard.patterns import find_shards
from diffusion_train.data.shard.problem import DataError


def _all(catalog):
    return [
        (catalog.key(i), {name: (place.url, place.offset, place.size, crc) for name, (place, crc) in found.items()})
        for i in range(len(catalog))
        for found in [catalog.members_of([i])[0]]
    ]


def test_samples_of_all_shards_follow_one_another(make_shards, make_png):
    paths = make_shards(7, 3)
    catalog = open_shards(paths)
    assert [catalog.key(i) for i in range(len(catalog))] == [f"k{i:05d}" for i in range(7)]
    assert [catalog.shard(i) for i in range(7)] == [0, 0, 0, 1, 1, 1, 2]
    place, _ = catalog.members_of([5])[0]["png"]
    with open(place.url, "rb") as file:
        file.seek(place.offset)
        assert file.read(place.size) == make_png(5)


def test_shards_of_other_members_keep_their_names(make_tar, make_png):
    one = make_tar([("a.txt", b"a"), ("a.png", make_png(0))], "one.tar")
    two = make_tar([("b.json", b'{"license": "MIT"}'), ("b.png", make_png(0)), ("b.txt", b"b")], "two.tar")
    catalog = open_shards([one, two])
    assert [set(catalog.members_of([i])[0]) for i in range(2)] == [{"txt", "png"}, {"json", "png", "txt"}]
    names, place = catalog.licenses()
    assert [names[i] if i >= 0 else None for i in place] == [None, "MIT"]
    counts, rows = catalog.first_rows(["png"])
    assert (counts.tolist(), catalog.arrays["members"]["offset"][rows].tolist()) == (
        [1, 1],
        [catalog.members_of([i])[0]["png"][0].offset for i in range(2)],
    )


def test_the_table_is_kept_mapped_and_travels_as_its_place(make_shards, monkeypatch):
    paths = make_shards(200, 100)
    first = open_shards(paths)
    monkeypatch.setattr(
        "diffusion_train.data.shard.catalog_builder.load_index", lambda *_: pytest.fail("indexes were read again")
    )
    again = open_shards(paths)
    assert isinstance(again.arrays["members"].base, np.memmap)
    assert len(pickle.dumps(again)) < 2000
    assert _all(again) == _all(pickle.loads(pickle.dumps(again))) == _all(first)


def test_a_table_that_cannot_be_kept_stays_in_memory(make_shards, tmp_path):
    paths = make_shards(6, 3)
    (tmp_path / "cache").write_text("no folder")
    catalog = open_shards(paths)
    assert catalog.folder is None
    assert _all(pickle.loads(pickle.dumps(catalog))) == _all(catalog)


@pytest.mark.parametrize("damage", ["cut", "gone", "text"])
def test_a_damaged_table_is_made_again(make_shards, damage):
    paths = make_shards(6, 3)
    first = open_shards(paths)
    expected = _all(first)
    file = first.folder / ("meta.json" if damage == "text" else "members.npy")
    if damage == "gone":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:40])
    assert _all(open_shards(paths)) == expected


def test_many_shards_are_indexed_by_several_processes(make_shards):
    paths = make_shards(12, 2)
    catalog = open_shards(paths)
    assert [catalog.key(i) for i in range(12)] == [f"k{i:05d}" for i in range(12)]
    assert all(path.with_name(path.name + ".index.npz").is_file() for path in paths)


def test_a_shard_that_changes_is_indexed_anew(make_tar, make_png):
    path = make_tar([("a.png", make_png(0))])
    open_shards(path)
    make_tar([("b.png", make_png(0)), ("c.png", make_png(1))])
    assert [open_shards(path).key(i) for i in range(2)] == ["b", "c"]


def test_the_fingerprint_knows_contents_not_places(make_shards, tmp_path):
    here = open_shards(make_shards(6, 3, "here"))
    there = open_shards(make_shards(6, 3, "there"))
    fewer = open_shards(make_shards(5, 3, "fewer"))
    swapped = open_shards(list(reversed(here.urls)))
    assert here.fingerprint == there.fingerprint
    assert len({here.fingerprint, fewer.fingerprint, swapped.fingerprint}) == 3


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
    urls, problems = find_shards(given)
    assert ([os.path.basename(url) for url in urls], problems) == (names, [])


@pytest.mark.parametrize("folder", ["[drafts]", "v[12]", "{a,b}", "what?", "x*", "run=1,lr=1e-3"])
@pytest.mark.parametrize("shards", ["a.tar", "*.tar", "{a,b}.tar", "sub[0]/*.tar", "s*/c.tar"])
def test_what_exists_by_its_name_is_meant_by_it(tmp_path, folder, shards):
    for name in (folder, "v1", "d", "a", "whats", "xy"):
        for path in ("a.tar", "b.tar", "sub[0]/c.tar", "sub0/wrong.tar"):
            (tmp_path / name / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name / path).touch()
    found = {"a.tar": ["a.tar"], "sub[0]/*.tar": ["sub[0]/c.tar"], "s*/c.tar": ["sub[0]/c.tar"]}
    urls, problems = find_shards(f"{tmp_path}/{folder}/{shards}")
    assert ([os.path.relpath(url, tmp_path / folder) for url in urls], problems) == (
        found.get(shards, ["a.tar", "b.tar"]),
        [],
    )


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
        open_shards(pattern)


def test_absent_files_say_where_they_were_looked_for(make_shards):
    [path] = make_shards(2, 2)
    with pytest.raises(DataError) as error:
        open_shards(["absent.tar", str(path), str(path.parent)])
    assert error.value.__notes__ == [
        f"local files: check the spelling of data.shards; relative paths start in {os.getcwd()}",
        "local files: data.shards must name tar files; for all tars of a folder give 'folder/*.tar'",
    ]


def test_a_shard_given_twice_is_refused(make_shards, tmp_path):
    [path] = make_shards(2, 2)
    (tmp_path / "again.tar").symlink_to(path)
    with pytest.raises(DataError, match=r"again.tar: given twice"):
        open_shards([path, tmp_path / "again.tar"])


def test_one_process_and_several_index_alike(make_shards, monkeypatch, tmp_path):
    paths = make_shards(8, 2)
    alone = open_shards(paths)
    for path in paths[0].parent.iterdir():
        if path not in paths:  # the indexes
            path.unlink()
    monkeypatch.setenv("DIFFUSION_TRAIN_CACHE", str(tmp_path / "cache of another run"))
    monkeypatch.setattr(catalog_builder, "_SMALL", 0)
    several = open_shards(paths)
    assert several.fingerprint == alone.fingerprint
    assert [several.key(number) for number in range(len(several))] == [
        alone.key(number) for number in range(len(alone))
    ]


def test_a_script_without_a_main_guard_is_told_instead_of_waiting_for_itself(make_shards, tmp_path):
    paths = make_shards(8, 1)
    for path in paths:
        os.truncate(path, 5 << 20)  # so large that other processes help
    script = tmp_path / "script.py"
    script.write_text(
        f"from diffusion_train.data.shard.catalog_builder import open_shards\nopen_shards({[str(p) for p in paths]})\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode != 0
    assert 'under `if __name__ == "__main__":`' in done.stderr


def test_an_identity_stands_for_the_bytes_of_the_image_alone(make_tar):
    def members(key, image, caption=b"x"):
        return [(f"{key}.txt", caption), (f"{key}.png", image)]

    shard = make_tar([*members("a", b"one"), *members("b", b"two"), *members("c", b"one", b"another caption")])
    catalog = open_shards([shard])
    a, b, c = catalog.identities([0, 1, 2], ["png"])
    assert a == c != b
    assert catalog.identities([1], ["json"]) == [""]
    assert a == hashlib.blake2b(b"one", digest_size=16).hexdigest()


def test_an_identity_tells_what_changes_the_pixels_besides_the_bytes(make_tar):
    """So that latents of an image whose colours were not converted are not used, and those of all others still are."""
    profiles = {"plain": None, "srgb": SRGB, "wide": WIDE, "inks": ONLY_BLACK_INK}
    images = {key: encoded(Image.new("RGB", (16, 16), "teal"), icc_profile=icc) for key, icc in profiles.items()}
    catalog = open_shards([make_tar([(f"{key}.png", image) for key, image in images.items()])])
    of_bytes = [hashlib.blake2b(image, digest_size=16).hexdigest() for image in images.values()]
    of_catalog = catalog.identities(range(4), ["png"])
    assert [one == other for one, other in zip(of_catalog, of_bytes, strict=True)] == [True, True, False, True]
