from __future__ import annotations

import io
import json
import os
import pickle

import pytest
import torch
from PIL import Image

from diffusion_train.data.caption.captions import Captions
from diffusion_train.data.caption.source import JsonMember, TextMember
from diffusion_train.data.dataset import ShardDataset
from diffusion_train.data.order import Draw
from diffusion_train.data.problem import DataError
from diffusion_train.data.resize import to_bytes
from diffusion_train.data.selection import Selection
from diffusion_train.data.storage.base import StorageError
from diffusion_train.data.transform import Downscale, ImageTransform
from diffusion_train.data.view import View


@pytest.fixture
def make_dataset(make_shards):
    def make(num_samples=12, image_size=16, folder="shards", **options):
        shards = make_shards(num_samples, 5, folder)
        return ShardDataset(shards, View(ImageTransform(image_size)), selection=Selection(**options))

    return make


def _read(dataset, index, epoch=0):
    [sample] = dataset.read([Draw(epoch, index)])
    return sample


def _keys(dataset):
    return [sample["key"] for sample in dataset.read([Draw(0, index) for index in range(len(dataset))])]


def test_a_sample_is_an_image_with_its_own_caption(make_dataset, make_png):
    dataset = make_dataset()
    for index in (0, 4, 5, 11):
        sample = _read(dataset, index)
        image = Image.open(io.BytesIO(make_png(index))).crop((2, 0, 18, 16))
        assert torch.equal(sample["x"], to_bytes(image))
        assert (sample["key"], sample["caption"], sample["index"]) == (f"k{index:05d}", f"caption {index}", index)
    assert list(dataset.captions()) == [f"caption {i}" for i in range(12)]


@pytest.mark.parametrize(("holdout", "count"), [(0, 0), (3, 3), (0.25, None)], ids=["none", "count", "share"])
def test_held_out_samples_are_no_training_samples(make_dataset, holdout, count):
    dataset = make_dataset(40, holdout=holdout)
    train, held = _keys(dataset), _keys(dataset.holdout())
    assert sorted(train + held) == [f"k{i:05d}" for i in range(40)]
    assert train == sorted(train)
    assert len(held) == count if count is not None else 3 <= len(held) <= 17


def test_more_held_out_samples_only_add_to_fewer(make_dataset):
    few, many = (_keys(make_dataset(20, holdout=count, folder=f"f{count}").holdout()) for count in (3, 7))
    assert many[:3] == few


def test_a_share_holds_out_the_same_keys_of_a_larger_data_set(make_dataset):
    small, large = (make_dataset(count, holdout=0.3, folder=f"f{count}") for count in (20, 40))
    assert set(_keys(small.holdout())) == {key for key in _keys(large.holdout()) if key < "k00020"}


def test_the_fingerprint_knows_what_is_held_out(make_dataset):
    datasets = [
        make_dataset(20, holdout=count) if not count else make_dataset(20, holdout=count, folder=f"f{count}")
        for count in (0, 2, 3)
    ]
    prints = {dataset.fingerprint for dataset in datasets} | {dataset.holdout().fingerprint for dataset in datasets[1:]}
    assert len(prints) == 5
    assert make_dataset(20, folder="again").fingerprint == datasets[0].fingerprint


def test_missing_captions_are_empty_where_asked_for(make_tar, make_png):
    path = make_tar([("a.png", make_png(0))])
    dataset = ShardDataset(path, View(ImageTransform(8)), Captions(TextMember(), missing="empty"))
    assert _read(dataset, 0)["caption"] == ""


def test_aligned_tensors_travel_with_the_sample(make_shards):
    transform = ImageTransform(16, flip=True, aligned={"low_res": Downscale(8)})
    dataset = ShardDataset(make_shards(3, 3), View(transform), selection=Selection(holdout=1))
    for samples in (dataset, dataset.holdout()):
        assert _read(samples, 0)["low_res"].shape == dataset.shape == (3, 16, 16)


@pytest.fixture
def with_bad(make_tar, make_png):
    """Samples a, b, c, d, of which b's image ends early and c's caption is no JSON."""
    image = make_png(0, 200, 200)
    members = [(f"{key}.png", image[:-500] if key == "b" else image) for key in "abcd"]
    members += [(f"{key}.json", b"[" if key == "c" else b'{"caption": "of %s"}' % key.encode()) for key in "abcd"]
    captions = Captions(JsonMember())
    return lambda **options: ShardDataset(make_tar(members), View(ImageTransform(16)), captions, **options)


def test_a_bad_sample_is_named_and_replaced_always_by_the_same(with_bad):
    dataset = with_bad()
    samples = dataset.read([Draw(0, index) for index in range(4)])
    assert [sample["key"] in "ad" for sample in samples] == [True] * 4
    assert all(sample["caption"] == f"of {sample['key']}" for sample in samples)
    assert [bool(sample["bad"]) for sample in samples] == [False, True, True, False]
    told = [json.loads(sample["bad"]) for sample in samples[1:3]]
    assert [(one["rule"], one["key"]) for one in told] == [("bad-sample", "b"), ("malformed-caption", "c")]
    assert told[0]["offset"] == dataset.collection.members(1)["png"][0].offset
    again = [_read(with_bad(), index, epoch=5)["key"] for index in (1, 2)]
    assert again == [sample["key"] for sample in samples[1:3]]


def test_a_data_set_of_bad_samples_alone_is_an_error(make_tar, make_png):
    path = make_tar([("a.png", make_png(0, 200, 200)[:-500]), ("a.txt", b"")])
    with pytest.raises(DataError, match=r"made.tar at byte \d+: sample 'a': not a whole .* none of 16 other"):
        _read(ShardDataset(path, View(ImageTransform(16))), 0)


def _damage(path, offset):
    stat = path.stat()
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


@pytest.mark.parametrize("member", ["png", "txt"])
def test_a_flipped_bit_is_found_by_its_checksum(make_shards, member):
    [path] = make_shards(4, 4)
    transform = ImageTransform(16)
    dataset = ShardDataset(path, View(transform))
    _damage(path, dataset.collection.members(2)[member][0].offset + 5)
    sample = _read(dataset, 2)
    assert "checksum differs" in json.loads(sample["bad"])["detail"]
    assert sample["key"] != "k00002"
    if member == "txt":
        unverified = ShardDataset(path, View(transform), verify=False)
        assert _read(unverified, 2)["caption"] == "captinn 2"


def test_a_shard_replaced_meanwhile_ends_the_run_and_mixes_no_samples(make_shards):
    paths = make_shards(4, 2)
    dataset = ShardDataset(paths, View(ImageTransform(16)))
    paths[1].write_bytes(paths[0].read_bytes())
    with pytest.raises(StorageError, match=r"part-000001.tar.* changed since"):
        _read(dataset, 3)


def test_a_pickled_data_set_reads_the_same(make_dataset):
    dataset = make_dataset(holdout=2)
    before = _read(dataset, 3)
    after = _read(pickle.loads(pickle.dumps(dataset)), 3)
    for name in ("x", "original_size", "crop"):
        assert torch.equal(before.pop(name), after.pop(name))
    assert before == after
