"""The settings of `data` check themselves at once, and read nothing until they are asked for data."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from diffusion_train.data.caption.captions import Captions
from diffusion_train.data.caption.csv_column import CsvColumn
from diffusion_train.data.caption.source import TextMember
from diffusion_train.data.data_settings import PointsData, ShardData, StreamData
from diffusion_train.data.order.resolution import AspectRatios

CONF = Path(__file__).parents[2] / "conf" / "data"
TEXT = Captions(TextMember())


def test_every_mistake_is_told_at_once_before_anything_is_read() -> None:
    wrong = {"holdout": -1, "crop": "side", "resolution": [[5, 32]], "batch_size": 0}
    captions = Captions(CsvColumn("nowhere.csv"))
    data = ShardData(shards="nowhere.tar", captions=captions, image_size=8, **wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"data\.holdout=-1") as told:
        data.check()
    keys = [line.partition("=")[0] for line in str(told.value).splitlines()]
    assert keys == ["data.holdout", "data.crop", "data.resolution", "data.batch_size"]


def test_a_mistake_that_two_parts_find_is_told_once() -> None:
    data = ShardData(shards="nowhere.tar", captions=TEXT, image_size=100, batch_size=4, buckets=AspectRatios(2, 64))
    with pytest.raises(ValueError, match=r"data\.buckets: image size 100") as told:
        data.check()
    assert len(str(told.value).splitlines()) == 1


def test_a_resolution_is_the_image_size_unless_it_says_more() -> None:
    data = ShardData(shards="nowhere.tar", captions=TEXT, image_size=16, batch_size=4)
    assert data.image_sizes()(9) == 16
    assert StreamData(shards="nowhere.tar", captions=TEXT, image_size=16, batch_size=4).image_sizes()(9) == 16


@pytest.mark.parametrize(
    ("option", "kind", "beside"),
    [("shards", ShardData, {"folder"}), ("stream", StreamData, set()), ("points", PointsData, set())],
)
def test_the_yaml_files_list_every_setting_once(option: str, kind: type, beside: set[str]) -> None:
    listed = yaml.safe_load((CONF / f"{option}.yaml").read_text("utf-8"))
    assert listed.keys() - {"defaults", "_target_"} == {field.name for field in fields(kind)} - beside


def test_the_parts_make_the_data(make_shards) -> None:
    data = ShardData(shards=[str(path) for path in make_shards(8, 4)], captions=TEXT, image_size=16, batch_size=4)
    data.check()
    assert (data.datamodule().num_samples, data.datamodule().shape) == (8, (3, 16, 16))
    assert PointsData(kind="spiral", num_samples=600, holdout=3, batch_size=4).datamodule().num_samples == 600
