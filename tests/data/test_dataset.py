from __future__ import annotations

import io
import json
import pickle

import pytest
import torch
from PIL import Image

from diffusion_train.data.caption.captions import Captions
from diffusion_train.data.caption.csv_column import CsvColumn
from diffusion_train.data.caption.source import JsonMember, TextMember
from diffusion_train.data.caption.tags import Tags
from diffusion_train.data.dataset import ShardDataset
from diffusion_train.data.image.preprocess import Preprocess
from diffusion_train.data.image.resize import to_bytes
from diffusion_train.data.image.transform import Downscale, ImageTransform
from diffusion_train.data.order.order import Draw
from diffusion_train.data.selection import Selection
from diffusion_train.data.shard.problem import DataError


@pytest.fixture
def make_dataset(make_shards):
    def make(num_samples=12, image_size=16, folder="shards", **options):
        shards = make_shards(num_samples, 5, folder)
        return ShardDataset(shards, Preprocess(ImageTransform(image_size)), selection=Selection(**options))

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


def test_some_sources_alone(make_tar, make_png):
    def tar(name):
        return make_tar(
            [pair for i in range(6) for pair in ((f"{name}{i}.png", make_png(i)), (f"{name}{i}.txt", b"a"))],
            f"{name}.tar",
        )

    shards = {name: str(tar(name)) for name in "abc"}
    dataset = ShardDataset(shards, Preprocess(ImageTransform(16)), selection=Selection(holdout=6))
    held_out = _keys(dataset.holdout())
    for sources in (["b"], ["c", "a"]):
        train, held = dataset.only(sources), dataset.holdout().only(sources)
        assert _keys(train) == [key for key in _keys(dataset) if key[0] in sources]
        assert _keys(held) == [key for key in held_out if key[0] in sources]
        assert {name for name, count in train.sources.items() if count} == set(sources)
    with pytest.raises(ValueError, match="sources: must be among a, b, c, got 'd'"):
        dataset.only(["a", "d"])


def test_missing_captions_are_empty_where_asked_for(make_tar, make_png):
    path = make_tar([("a.png", make_png(0))])
    dataset = ShardDataset(path, Preprocess(ImageTransform(8)), Captions(TextMember(), missing="empty"))
    assert _read(dataset, 0)["caption"] == ""


def test_aligned_tensors_travel_with_the_sample(make_shards):
    transform = ImageTransform(16, flip=True, aligned={"low_res": Downscale(8)})
    dataset = ShardDataset(make_shards(3, 3), Preprocess(transform), selection=Selection(holdout=1))
    for samples in (dataset, dataset.holdout()):
        assert _read(samples, 0)["low_res"].shape == dataset.shape == (3, 16, 16)


@pytest.fixture
def with_bad(make_tar, make_png):
    """Samples a, b, c, d, of which b's image ends early and c's caption is no JSON."""
    image = make_png(0, 200, 200)
    members = [(f"{key}.png", image[:-500] if key == "b" else image) for key in "abcd"]
    members += [(f"{key}.json", b"[" if key == "c" else b'{"caption": "of %s"}' % key.encode()) for key in "abcd"]
    captions = Captions(JsonMember())
    return lambda **options: ShardDataset(make_tar(members), Preprocess(ImageTransform(16)), captions, **options)


def test_a_bad_sample_is_named_and_replaced_always_by_the_same(with_bad):
    dataset = with_bad()
    samples = dataset.read([Draw(0, index) for index in range(4)])
    assert [sample["key"] in "ad" for sample in samples] == [True] * 4
    assert all(sample["caption"] == f"of {sample['key']}" for sample in samples)
    assert [bool(sample["bad"]) for sample in samples] == [False, True, True, False]
    told = [json.loads(sample["bad"]) for sample in samples[1:3]]
    assert [(one["rule"], one["key"]) for one in told] == [("bad-sample", "b"), ("malformed-caption", "c")]
    assert told[0]["offset"] == dataset.catalog.members_of([1])[0]["png"][0].offset
    again = [_read(with_bad(), index, epoch=5)["key"] for index in (1, 2)]
    assert again == [sample["key"] for sample in samples[1:3]]


def test_a_data_set_of_bad_samples_alone_is_an_error(make_tar, make_png):
    path = make_tar([("a.png", make_png(0, 200, 200)[:-500]), ("a.txt", b"")])
    with pytest.raises(
        DataError,
        match=r"made.tar at byte \d+: sample 'a': damaged image .* 16 other samples were tried as substitutes and "
        "cannot be read either",
    ):
        _read(ShardDataset(path, Preprocess(ImageTransform(16))), 0)


def test_a_pickled_data_set_reads_the_same(make_dataset):
    dataset = make_dataset(holdout=2)
    before = _read(dataset, 3)
    after = _read(pickle.loads(pickle.dumps(dataset)), 3)
    for name in ("x", "original_size", "crop"):
        assert torch.equal(before.pop(name), after.pop(name))
    assert before == after


@pytest.mark.parametrize(
    ("text", "options"),
    [
        (b"a cat\nlooking left", {}),
        (b"a cat\nlooking left", {"choose": "first"}),
        (b"a cat, dog, left", {"tags": Tags(dropout=0.9)}),
        (b"a cat", {"templates": ["{caption}", "text: {caption}"]}),
    ],
    ids=["another caption", "not the first", "a tag left out", "another template"],
)
def test_an_image_is_not_mirrored_for_any_of_its_texts_whichever_is_drawn(make_tar, make_png, text, options):
    path = make_tar([("a.png", make_png(0, 16, 16)), ("a.txt", text)])
    preprocess = Preprocess(ImageTransform(16, flip=True))
    dataset = ShardDataset(path, preprocess, Captions(TextMember(lines=True), **options))
    plain = _read(dataset, 0)["x"]
    assert all(torch.equal(_read(dataset, 0, epoch)["x"], plain) for epoch in range(40))
    free = make_tar([("a.png", make_png(0, 16, 16)), ("a.txt", b"a cat")], "free.tar")
    others = ShardDataset(free, preprocess, Captions(TextMember()))
    assert not all(torch.equal(_read(others, 0, epoch)["x"], plain) for epoch in range(40))


def test_rows_and_samples_that_do_not_meet_are_told_with_examples(make_shards, tmp_path, caplog):
    rows = [f"k{i:05d}.png,caption {i}" for i in range(2, 12)] + ["other/x.png,y"]
    (tmp_path / "captions.csv").write_text("\n".join(["key,caption", *rows]))
    captions = Captions(CsvColumn(str(tmp_path / "captions.csv")), missing="empty")
    ShardDataset(make_shards(12, 5), Preprocess(ImageTransform(16)), captions)
    assert "2 of 12 samples have no row in" in caplog.text
    assert "captions.csv: k00000, k00001" in caplog.text
    assert "1 of 11 keys with a row in" in caplog.text
    assert "other/x" in caplog.text


def test_a_table_that_fits_no_sample_is_an_error_that_shows_both(make_shards, tmp_path):
    (tmp_path / "captions.csv").write_text("key,caption\nimages/k00000.png,a\n")
    for missing in ("error", "empty", "drop"):
        captions = Captions(CsvColumn(str(tmp_path / "captions.csv")), missing=missing)
        with pytest.raises(
            DataError, match=r"look like 'k00000', but keys in the table look like 'images/k00000'.*source.key"
        ):
            ShardDataset(make_shards(4, 4, missing), Preprocess(ImageTransform(16)), captions)


def test_where_no_captions_can_be_listed_not_all_are_read_for_that(make_shards, monkeypatch, caplog):
    monkeypatch.setattr("diffusion_train.data.dataset._CHUNK", 4)
    dataset = ShardDataset(
        make_shards(12, 12), Preprocess(ImageTransform(16)), Captions(TextMember(), tags=Tags(" ", shuffle=True))
    )
    read, sizes = dataset.storage.read, []
    monkeypatch.setattr(dataset.storage, "read", lambda ranges: sizes.append(len(ranges)) or read(ranges))
    assert list(dataset.captions()) == []
    assert sizes == [4]
