from __future__ import annotations

import io
import pickle

import pytest
import torch
from PIL import Image

from diffusion_train.data.caption.captions import Captions
from diffusion_train.data.caption.source import JsonMember, TextMember
from diffusion_train.data.dataset import ShardDataset
from diffusion_train.data.index import DataError
from diffusion_train.data.transform import Downscale, ImageTransform, to_tensor


@pytest.fixture
def make_dataset(make_shards):
    def make(num_samples=12, image_size=16, folder="shards", **options):
        return ShardDataset(make_shards(num_samples, 5, folder), ImageTransform(image_size), **options)

    return make


def _keys(dataset):
    return [dataset.read(index, 0)["key"] for index in range(len(dataset))]


def test_a_sample_is_an_image_with_its_own_caption(make_dataset, make_png):
    dataset = make_dataset()
    for index in (0, 4, 5, 11):
        sample = dataset.read(index, draw=0)
        image = Image.open(io.BytesIO(make_png(index))).crop((2, 0, 18, 16))
        assert torch.equal(sample["x"], to_tensor(image))
        assert (sample["key"], sample["caption"], sample["index"]) == (f"k{index:05d}", f"caption {index}", index)
        assert list(dataset.captions(index)) == [sample["caption"]]


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


def test_small_images_are_enlarged_and_counted_or_left_out(make_tar, make_png, caplog):
    sizes = {"a": (40, 40), "b": (20, 50), "c": (50, 6)}
    members = [(f"{key}.png", make_png(0, *size)) for key, size in sizes.items()]
    path = make_tar(members + [(f"{key}.txt", b"") for key in sizes])
    assert _keys(ShardDataset(path, ImageTransform(32), min_side=8)) == ["a", "b"]
    assert "1 of 3 images have a side below data.min_side=8" in caplog.text
    assert "1 of 2 images are enlarged to data.image_size=32" in caplog.text


def test_missing_captions_are_empty_where_asked_for(make_tar, make_png):
    path = make_tar([("a.png", make_png(0))])
    with pytest.raises(DataError, match=r"data\.captions\.missing=empty"):
        ShardDataset(path, ImageTransform(8))
    captions = Captions(TextMember(), missing="empty")
    assert ShardDataset(path, ImageTransform(8), captions=captions).read(0, 0)["caption"] == ""


def test_captions_are_drawn_by_epoch_and_all_listed(make_dataset):
    captions = Captions(JsonMember("number"), templates=["number {caption}", "{caption}"])
    dataset = make_dataset(captions=captions)
    drawn = {dataset.read(3, epoch)["caption"] for epoch in range(12)}
    assert drawn == set(dataset.captions(3)) == {"number 3", "3"}


def test_aligned_tensors_travel_with_the_sample(make_shards):
    transform = ImageTransform(16, flip=True, aligned={"low_res": Downscale(8)})
    dataset = ShardDataset(make_shards(3, 3), transform, holdout=1)
    for samples in (dataset, dataset.holdout()):
        assert samples.read(0, 0)["low_res"].shape == dataset.shape == (3, 16, 16)


def test_an_image_that_cannot_be_decoded_is_named(make_tar, make_png):
    path = make_tar([("a.txt", b""), ("a.png", make_png(0, 200, 200)[:-500])])
    dataset = ShardDataset(path, ImageTransform(16))
    with pytest.raises(DataError, match=r"made.tar at byte 1024: image of sample 'a': not a whole"):
        dataset.read(0, 0)


def test_a_pickled_data_set_reads_the_same(make_dataset):
    dataset = make_dataset(holdout=2)
    before = dataset.read(3, 0)
    after = pickle.loads(pickle.dumps(dataset)).read(3, 0)
    assert torch.equal(before.pop("x"), after.pop("x"))
    assert before == after


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"holdout": 12}, "data.holdout=12 leaves nothing of 12"),
        ({"holdout": -1}, "data.holdout=-1"),
        ({"holdout": 2.5}, "data.holdout=2.5"),
        ({"min_side": 99}, "data.min_side=99: no image is that large; the largest has 16"),
    ],
    ids=["all-held-out", "negative", "broken-count", "all-too-small"],
)
def test_impossible_settings_are_refused(make_dataset, options, message):
    with pytest.raises(ValueError, match=message):
        make_dataset(**options)
