from __future__ import annotations

import pytest

from diffusion_train.data.caption.captions import Captions
from diffusion_train.data.caption.source import TextMember
from diffusion_train.data.selection import UNUSED_IMAGE, Selection, unused_images
from diffusion_train.data.shard.catalog_builder import open_shards
from diffusion_train.data.shard.problem import DataError


def _choose(shards, missing="error", **options):
    catalog = open_shards(shards)
    chosen = Selection(**options).choose(catalog, Captions(TextMember(), missing=missing))
    return [catalog.key(int(sample)) for sample in chosen.train], chosen


@pytest.fixture
def faulty(make_tar, make_png):
    """Shards with every fault that an index finds, and the faults: (shard, offset, rule)."""
    image = make_png(0)
    space = 512 + -(-len(image) // 512) * 512  # of an image in a tar
    pair = [("good.png", image), ("good.txt", b"good")]
    torn = make_tar([*pair, ("a.png", image)], "torn.tar")
    torn.write_bytes(torn.read_bytes()[: space + 1024 + 700])
    shards = [
        torn,
        make_tar([*pair, ("a.png", image), ("a.txt", b"1"), ("a.txt", b"2"), ("a.png", image)], "twice.tar"),
        make_tar([("a.txt", b""), ("b.png", image), ("c.png", image), ("c.jpg", image), ("c.txt", b"")], "lacking.tar"),
        make_tar([("a.txt", b""), ("a.png", image[:20]), *pair], "broken.tar"),
    ]
    start = space + 1024  # of what follows the good pair
    return shards, [
        ("torn.tar", start, "torn-shard"),
        ("twice.tar", start + space + 1024, "duplicate-member"),
        ("twice.tar", start + space + 2048, "duplicate-member"),
        ("lacking.tar", 512, "missing-image"),
        ("lacking.tar", 1024, "missing-caption"),
        ("lacking.tar", 1024 + space, "several-images"),
        ("broken.tar", 512, "undecodable-image"),
    ]


def _places(problems):
    return sorted((problem.shard.rsplit("/")[-1], problem.offset, problem.rule) for problem in problems)


def test_all_faults_of_all_shards_are_told_at_once(faulty):
    shards, expected = faulty
    with pytest.raises(DataError) as error:
        _choose(shards)
    assert _places(error.value.problems) == sorted(expected)
    assert all(f"{shard} at byte {offset}: " in str(error.value) for shard, offset, _ in expected)
    assert "data.faults=tolerant" in error.value.__notes__[0]


def test_tolerance_leaves_faulty_samples_out_and_tells(faulty, caplog):
    shards, expected = faulty
    keys, chosen = _choose(shards, faults="tolerant")
    assert keys == ["good", "good", "good"]  # of twice.tar's a nobody knows which members belong together
    assert _places(chosen.problems) == sorted(expected)
    assert chosen.left_out["faulty"] == 4  # samples; the other three faults are of shards
    assert "7 faults in the shards" in caplog.text


def test_captions_may_be_absent_where_asked_for(make_tar, make_png, caplog):
    path = make_tar([("a.png", make_png(0)), ("b.png", make_png(0)), ("b.txt", b"b")])
    assert _choose(path, missing="empty")[0] == ["a", "b"]
    assert _choose(path, missing="drop")[0] == ["b"]
    assert "1 of 2 samples are left out: no caption (txt)" in caplog.text


def test_what_is_left_out_is_counted_by_reason(make_tar, make_png, caplog):
    sizes = {"a": (40, 40), "b": (20, 50), "c": (50, 6), "d": (100, 20)}
    facts = {"a": b'{"license": "CC BY 4.0"}', "b": b'{"license": "mit"}', "d": b'{"license": "CC-BY-NC-4.0"}'}
    members = [(f"{key}.png", make_png(0, *size)) for key, size in sizes.items()]
    members += [(f"{key}.txt", b"") for key in sizes] + [(f"{key}.json", text) for key, text in facts.items()]
    path = make_tar(members)
    assert _choose(path)[0] == ["a", "b", "c", "d"]
    keys, chosen = _choose(path, min_side=8, max_aspect=4, allowed_licenses=["CC-BY-4.0", "CC-BY-NC-4.0"])
    assert keys == ["a"]
    assert sorted(chosen.left_out.values()) == [1, 1, 1]
    assert "1 of 4 samples are left out: a licence that is not in data.allowed_licenses" in caplog.text
    assert "SPDX" not in caplog.text
    assert _choose(path, allowed_licenses=["unknown", "BY-BY"])[0] == ["c"]
    assert "data.allowed_licenses: 'BY-BY' is not an SPDX name, and no sample has this licence" in caplog.text


def test_every_image_that_no_sample_uses_is_counted_and_named(make_tar, make_png, caplog):
    dotted = [(f"shoe.v{number}.{kind}", make_png(number)) for number, kind in ((1, "png"), (2, "JPG"), (3, "tiff"))]
    path = make_tar([("shoe.png", make_png(0)), ("shoe.txt", b""), *dotted, ("shoe.edge.png", make_png(4))])
    catalog = open_shards(path)
    chosen = Selection().choose(catalog, Captions(TextMember()), further_images=["edge.png"])
    assert chosen.left_out == {UNUSED_IMAGE: 3}
    assert "3 images are not trained on: shoe.v1.png, shoe.v2.jpg, shoe.v3.tiff" in caplog.text
    assert [name for _, name, _ in unused_images(catalog, ["edge.png", "v1.png"])] == ["shoe.v2.jpg", "shoe.v3.tiff"]


def test_nothing_left_is_an_error_that_says_why(make_tar, make_png):
    path = make_tar([("a.png", make_png(0, 16, 16)), ("a.txt", b"")])
    with pytest.raises(DataError, match=r"all 1 samples are left out \(1 a side below data.min_side=99\)"):
        _choose(path, min_side=99)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"holdout": 12}, r"data\.holdout=12 holds out all 12 samples"),
        ({"holdout": -1}, r"data\.holdout=-1"),
        ({"holdout": 2.5}, r"data\.holdout=2\.5"),
        ({"faults": "ignored"}, r"data\.faults=ignored: must be one of strict, tolerant"),
        ({"max_aspect": 0.5}, r"data\.max_aspect=0\.5"),
    ],
    ids=["all-held-out", "negative", "broken-count", "policy", "aspect"],
)
def test_impossible_settings_are_refused(make_shards, options, message):
    with pytest.raises(ValueError, match=message):
        _choose(make_shards(12, 5), **options)
