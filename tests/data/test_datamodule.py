from __future__ import annotations

import itertools
from functools import partial
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch

from diffusion_train.data.datamodule import DataModule
from diffusion_train.data.dataset import ShardDataset
from diffusion_train.data.image.preprocess import Preprocess
from diffusion_train.data.image.transform import ImageTransform
from diffusion_train.data.order.order import Order
from diffusion_train.data.order.order_spec import OrderSpec
from diffusion_train.data.order.resolution import AspectRatios, Resolution
from diffusion_train.data.points import PointsDataset
from diffusion_train.data.selection import Selection
from diffusion_train.data.storage.base import StorageError


def _points(num_samples=20, batch_size=6, num_lanes=1, **options):
    order = OrderSpec(partial(Order, seed=0, block_size=4, window=2, num_lanes=num_lanes))
    return DataModule(PointsDataset("spiral", num_samples, num_holdout=5), order, batch_size, **options)


@pytest.fixture
def make_images(make_shards):
    def make(**options):
        dataset = ShardDataset(
            make_shards(14, 4), Preprocess(ImageTransform(16, flip=True)), selection=Selection(holdout=2)
        )
        return DataModule(dataset, OrderSpec(partial(Order, seed=0, block_size=2, window=2)), 4, **options)

    return make


def _take(data, count):
    return list(itertools.islice(data.train_dataloader(), count))


def _indices(batches):
    return [batch["index"].tolist() for batch in batches]


def test_a_batch_holds_tensors_and_texts(make_images):
    [batch] = _take(make_images(), 1)
    assert batch["x"].shape == (4, 3, 16, 16)
    assert batch["index"].dtype == torch.int64
    assert [int(key[1:]) for key in batch["key"]] == [int(caption.split()[1]) for caption in batch["caption"]]


def test_batches_do_not_depend_on_the_number_of_workers(make_images):
    data = make_images(num_workers=0)
    none = _take(data, 5)
    data.num_workers = 2
    two = _take(data, 5)
    for one, other in zip(none, two, strict=True):
        assert torch.equal(one["x"], other["x"])
        assert one["key"] == other["key"]


@pytest.mark.parametrize("start", [1, 4, 9])
def test_a_restart_goes_on_with_the_same_batches(start):
    data = _points()
    whole = _indices(_take(data, 12))
    assert whole == [[draw.sample for draw in data.order.indices(6 * step, 6)] for step in range(12)]
    data.seek(start, 6 * start)
    assert _indices(_take(data, 12 - start)) == whole[start:]


@pytest.mark.parametrize("num_lanes", [1, 2])
@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_shares_of_all_processes_make_up_the_global_batch(world_size, num_lanes):
    data = _points(batch_size=8, num_lanes=num_lanes)
    whole = _indices(_take(data, 4))
    shares = []
    for rank in range(world_size):
        strategy = SimpleNamespace(root_device=torch.device("cpu"))
        data.trainer = SimpleNamespace(global_rank=rank, world_size=world_size, strategy=strategy)
        shares.append(_indices(_take(data, 4)))
    assert [list(itertools.chain(*step)) for step in zip(*shares, strict=True)] == whole


def test_nothing_is_drawn_from_the_global_generator():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    _take(_points(), 3)
    assert torch.equal(torch.get_rng_state(), before)


def test_batches_can_be_repeated():
    batches = _indices(_take(_points(num_repeated_batches=2), 6))
    assert batches[0] != batches[1]
    assert batches == batches[:2] * 3


class _Recorder(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen = []

    def training_step(self, batch, batch_idx):
        self.seen.append(batch["index"].tolist())
        return self.weight * batch["x"].mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def _fit(data, folder):
    module = _Recorder()
    trainer = pl.Trainer(
        accelerator="cpu",
        max_steps=8,
        max_epochs=-1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=folder,
    )
    trainer.fit(module, data)
    return module


@pytest.mark.parametrize("num_samples", [6, 7, 12, 17, 18], ids=lambda n: f"{n}-samples")
def test_lightning_trains_on_without_end(num_samples, tmp_path):
    module = _fit(_points(num_samples), tmp_path)
    assert module.seen == _indices(_take(_points(num_samples), 8))


def test_a_fault_in_a_worker_reaches_the_user(make_images, tmp_path):
    data = make_images(num_workers=1)
    next((tmp_path / "shards").glob("*1.tar")).write_bytes(b"other")
    with pytest.raises(StorageError, match=r"changed since it was indexed|expected [0-9]+ bytes, got"):
        _fit(data, tmp_path)


@pytest.mark.parametrize(
    ("options", "world_size", "message"),
    [
        ({"batch_size": 6}, 4, "data.batch_size=6: must be divisible by 4, for 4 .* use 4 or 8"),
        ({"batch_size": 2}, 4, "data.batch_size=2: .* use 4$"),
        ({"batch_size": 6, "num_lanes": 4}, 1, "data.batch_size=6: .*data.num_lanes=4; use 4 or 8"),
        ({"batch_size": 0}, 1, "data.batch_size=0: must be at least 1"),
        ({"batch_size": 21}, 1, "data.batch_size=21 must be at most 20, the number of training samples"),
        ({"micro_batch_size": 0}, 1, "data.micro_batch_size=0"),
        ({"num_workers": -1}, 1, "data.num_workers=-1"),
        ({"num_repeated_batches": 0}, 1, "data.num_repeated_batches=0"),
    ],
)
def test_impossible_sizes_are_refused(options, world_size, message):
    with pytest.raises(ValueError, match=message):
        _points(**options).check(world_size)


def test_all_wrong_sizes_are_told_at_once():
    with pytest.raises(ValueError, match=r"data.batch_size=30(.|\n)*data.num_workers=-2"):
        _points(batch_size=30, num_workers=-2)


def test_held_out_samples_come_in_their_order_and_no_more_than_there_are():
    data = _points()
    assert data.held_out(3)["index"].tolist() == [0, 1, 2]
    assert len(data.held_out(99)["index"]) == 5
    assert not torch.isin(data.held_out(5)["x"], data.examples(20)["x"]).any()
    assert DataModule(PointsDataset("spiral", 8), OrderSpec(partial(Order, seed=0)), 4).held_out(3) is None


def test_examples_are_spread_over_the_data():
    assert _points().examples(4)["index"].tolist() == [0, 5, 10, 15]
    assert _points().examples(99)["index"].tolist() == list(range(20))


def test_captions_are_those_of_all_samples(make_images):
    assert sorted(make_images().captions()) == sorted(f"caption {i}" for i in range(14))


@pytest.fixture
def make_wide_and_tall(make_tar, make_png):
    """Wide, square and tall images by turns."""
    sizes = [(40, 20), (30, 30), (20, 40)]
    members = [(f"{i:02d}.png", make_png(i, *sizes[i % 3])) for i in range(30)]
    path = make_tar(members + [(f"{i:02d}.txt", b"") for i in range(30)])

    def make(world_size=1, rank=0, **options):
        ratios = AspectRatios(2, 4)
        order_spec = OrderSpec(partial(Order, seed=0, block_size=2, window=2), ratios=ratios, image_size=16)
        dataset = ShardDataset(path, Preprocess(ImageTransform(16)))
        data = DataModule(dataset, order_spec, 4, resolution=Resolution([[0, 16], [9, 32]], ratios), **options)
        strategy = SimpleNamespace(root_device=torch.device("cpu"))
        data.trainer = SimpleNamespace(global_rank=rank, world_size=world_size, strategy=strategy)
        return data

    return make


def test_every_batch_has_the_shape_of_its_bucket_at_its_step(make_wide_and_tall):
    batches = _take(make_wide_and_tall(), 18)
    shapes = [tuple(batch["x"].shape[2:]) for batch in batches]
    assert len(set(shapes[:9])) == len(set(shapes[9:])) == 3
    assert all(abs(h * w / 16**2 - 1) < 0.2 for h, w in shapes[:9])
    assert all(abs(h * w / 32**2 - 1) < 0.2 for h, w in shapes[9:])
    for batch, (height, width) in zip(batches, shapes, strict=True):
        h, w = batch["original_size"].unbind(1)
        assert ((h > w) == (height > width)).all()
        assert ((h < w) == (height < width)).all()
    assert sorted(key for batch in batches[:15] for key in batch["key"])[::2] == [f"{i:02d}" for i in range(30)]


def test_buckets_and_resolutions_are_shared_out_and_gone_on_with_exactly(make_wide_and_tall):
    whole = [batch["key"] for batch in _take(make_wide_and_tall(), 12)]
    shares = [[batch["key"] for batch in _take(make_wide_and_tall(2, rank), 12)] for rank in range(2)]
    assert [one + two for one, two in zip(*shares, strict=True)] == whole
    later = make_wide_and_tall(num_workers=1)
    later.seek(7, 28)
    batches = _take(later, 5)
    assert [batch["key"] for batch in batches] == whole[7:]
    assert (
        batches[1]["x"].shape[2] * batches[1]["x"].shape[3] < 400 < batches[2]["x"].shape[2] * batches[2]["x"].shape[3]
    )


def test_a_bucket_smaller_than_a_batch_is_told(make_wide_and_tall, caplog):
    data = make_wide_and_tall()
    assert sum(data.facts["buckets"].values()) == 30
    assert not caplog.text
    small = DataModule(data.dataset, OrderSpec(partial(Order, seed=0), ratios=AspectRatios(2, 4), image_size=16), 20)
    assert len(small.occupancy()) == 3
    assert "fewer than data.batch_size=20, so a batch contains some of them 2 times" in caplog.text
