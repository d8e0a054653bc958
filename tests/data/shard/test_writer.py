from __future__ import annotations

import pytest
import webdataset

from diffusion_train.data.shard.catalog_builder import open_shards
from diffusion_train.data.shard.writer import write_shards

SAMPLES = [
    {"__key__": "a", "png": b"1", "txt": "ä", "json": {"n": 1}},
    {"__key__": "folder/" + "long" * 40, "png": b"2", "txt": "b", "json": {"n": 2}},
    {"__key__": "ünïcode", "png": b"3", "txt": "c", "json": {"n": 3}},
]


def test_equal_samples_give_equal_bytes(tmp_path):
    first, second = (write_shards(SAMPLES, tmp_path / name, "part", 2) for name in ("one", "two"))
    assert [path.name for path in first] == ["part-000000.tar", "part-000001.tar"]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_stock_webdataset_reads_the_same_pairs(make_shards):
    paths = make_shards(7, 3)
    stock = {
        sample["__key__"]: (sample["png"], sample["txt"])
        for sample in webdataset.WebDataset([str(path) for path in paths], shardshuffle=False)
    }
    catalog = open_shards(paths)
    ours = {}
    for number in range(len(catalog)):
        data = paths[catalog.shard(number)].read_bytes()
        places = [catalog.members_of([number])[0][name][0] for name in ("png", "txt")]
        ours[catalog.key(number)] = tuple(data[place.offset : place.offset + place.size] for place in places)
    assert len(ours) == 7
    assert ours == stock


def test_stock_webdataset_reads_long_and_unicode_keys(tmp_path):
    paths = write_shards(SAMPLES, tmp_path / "shards", "part", 2)
    keys = [sample["__key__"] for sample in webdataset.WebDataset([str(path) for path in paths], shardshuffle=False)]
    assert keys == [sample["__key__"] for sample in SAMPLES]


def test_nothing_is_left_of_a_failed_preparation(tmp_path):
    def failing():
        yield SAMPLES[0]
        raise RuntimeError("disk on fire")

    with pytest.raises(RuntimeError, match="on fire"):
        write_shards(failing(), tmp_path / "shards", "part", 1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ([], "no samples"),
        ([{"__key__": "a.b", "txt": ""}], "must not be empty or contain dots"),
        ([{"__key__": "a/", "txt": ""}], "must not be empty"),
        ([SAMPLES[0], SAMPLES[0]], "twice"),
    ],
    ids=["empty", "dotted", "no-name", "duplicate"],
)
def test_what_readers_would_misread_is_refused(tmp_path, samples, message):
    with pytest.raises(ValueError, match=message):
        write_shards(samples, tmp_path / "shards", "part", 2)


def test_a_folder_with_content_is_left_alone(tmp_path):
    write_shards(SAMPLES, tmp_path / "shards", "part", 2)
    with pytest.raises(FileExistsError, match="not empty"):
        write_shards(SAMPLES[:1], tmp_path / "shards", "part", 2)
    assert len(list((tmp_path / "shards").iterdir())) == 2
