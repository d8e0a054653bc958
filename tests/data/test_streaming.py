from __future__ import annotations

import itertools
import json
import os
from pathlib import Path

import pytest
import torch

from diffusion_train.data.caption.captions import Captions
from diffusion_train.data.caption.source import TextMember
from diffusion_train.data.image.preprocess import Preprocess
from diffusion_train.data.image.transform import ImageTransform
from diffusion_train.data.shard.problem import DataError
from diffusion_train.data.streaming import StreamModule


def _stream(shards, **options):
    options = {"batch_size": 4, "shuffle": 0} | options
    return StreamModule(shards, Preprocess(ImageTransform(16)), Captions(TextMember()), **options)


def _take(data, count):
    return list(itertools.islice(data.train_dataloader(), count))


def test_pairs_belong_together_and_never_end(make_shards):
    batches = _take(_stream([str(path) for path in make_shards(7, 3)]), 20)
    pairs = {pair for batch in batches for pair in zip(batch["key"], batch["caption"], strict=True)}
    assert pairs == {(f"k{i:05d}", f"caption {i}") for i in range(7)}
    assert batches[0]["x"].shape == (4, 3, 16, 16)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_stream_of_one_seed_repeats_while_nothing_changes(make_shards, num_workers):
    shards = [str(path) for path in make_shards(9, 3)]
    one, two = (_take(_stream(shards, num_workers=num_workers, shuffle=5), 6) for _ in range(2))
    assert [batch["key"] for batch in one] == [batch["key"] for batch in two]


def test_a_torn_shard_never_pairs_one_image_with_the_caption_of_another(make_tar, make_png):
    """Every shard begins with the key that the torn one ends with, as shards written apart do."""
    whole = make_tar([("a.png", make_png(1)), ("a.txt", b"one")], "whole.tar")
    torn = make_tar([("a.txt", b"two"), ("a.png", make_png(2))], "torn.tar")
    torn.write_bytes(torn.read_bytes()[: 1024 + 512 + 200])
    batches = _take(_stream([str(whole), str(torn)]), 8)
    assert {caption for batch in batches for caption in batch["caption"]} == {"one"}
    told = {json.loads(line)["rule"] for batch in batches for bad in batch["bad"] for line in bad.split("\n") if line}
    assert told == {"torn-shard", "bad-sample"}


def test_images_that_are_not_read_are_named_once(make_tar, make_png, caplog):
    shard = make_tar([("a.png", make_png(1)), ("a.txt", b"one"), ("a.v2.png", make_png(2))])
    _take(_stream([str(shard)]), 4)
    assert caplog.text.count("such as a.v2.png") == 1


def test_shards_of_nothing_usable_are_an_error_not_a_hang(make_tar, make_png):
    with pytest.raises(DataError, match=r"no caption"):
        _take(_stream([str(make_tar([("a.png", make_png(0))]))]), 1)


def test_what_cannot_be_streamed_is_named(tmp_path):
    with pytest.raises(DataError, match=r"s3://bucket/a.tar: cannot be streamed"):
        _stream("s3://bucket/a.tar")
    with pytest.raises(DataError, match="pipe:"):
        _stream("pipe:touch canary")


def test_going_on_says_that_it_is_not_exact_and_draws_anew(make_shards, caplog):
    data = _stream([str(path) for path in make_shards(9, 1)])
    first = _take(data, 3)
    data.resume(3, data.record(3), Path())
    assert "cannot resume exactly" in caplog.text
    assert [batch["key"] for batch in _take(data, 3)] != [batch["key"] for batch in first]
    assert not torch.equal(_take(data, 1)[0]["x"], first[0]["x"])


def test_a_device_that_never_ends_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.tar")
    with pytest.raises(DataError, match="not a regular file") as caught:
        _stream(["/dev/zero", str(tmp_path / "pipe.tar")])
    assert len(caught.value.problems) == 2
