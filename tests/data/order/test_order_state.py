"""FAULTS row 60, over restarts: a data set that changes, once and again, by the names of its samples."""

from __future__ import annotations

import io
import json
from functools import partial

import numpy as np
import pytest
from PIL import Image

from diffusion_train.data.dataset import ShardDataset
from diffusion_train.data.image.preprocess import Preprocess
from diffusion_train.data.image.transform import ImageTransform
from diffusion_train.data.order.manifest import SampleManifest
from diffusion_train.data.order.order import Order
from diffusion_train.data.order.order_spec import OrderSpec
from diffusion_train.data.order.order_state import OrderState
from diffusion_train.data.order.resolution import AspectRatios
from diffusion_train.data.points import PointsDataset

BATCH = 6
SHAPES = [(40, 20), (30, 30), (20, 40)]  # of a sample, by its number
ORDERS = {
    "plain": {},
    "lanes": {"num_lanes": 2},
    "sources": {"repeats": {"a": 2.5}},
    "buckets": {"ratios": AspectRatios(2, 4), "image_size": 16},
    "sources-in-buckets": {"weights": {"a": 1, "b": 2}, "ratios": AspectRatios(2, 4), "image_size": 16},
}


def _png(number):
    out = io.BytesIO()
    Image.new("RGB", SHAPES[number % 3], (number, 0, 0)).save(out, "png")
    return out.getvalue()


@pytest.fixture
def dataset(make_tar):
    """(numbers of samples by shard) -> their data set: one source, or two, the second with the last shard."""

    def make(*shards, sources=1):
        paths = []
        for numbers in shards:
            members = [(f"{i:03d}.{ext}", data) for i in numbers for ext, data in (("png", _png(i)), ("txt", b"text"))]
            paths.append(str(make_tar(members, f"{len(paths)}-{min(numbers)}-{max(numbers)}-{len(numbers)}.tar")))
        return ShardDataset(
            {"a": paths[:-1], "b": paths[-1:]} if sources == 2 else paths, Preprocess(ImageTransform(16))
        )

    return make


def _arrangement(num_lanes=1, seed=0, **options):
    return OrderSpec(partial(Order, seed=seed, block_size=4, window=2, num_lanes=num_lanes), **options)


class _Run:
    """Draws of one data set after another: (group, epoch, number of the sample) of each, and restarts between them."""

    def __init__(self, folder, order_spec, dataset):
        self.folder, self.order_spec = folder, order_spec
        self.order_state, self.position, self.drawn = OrderState(dataset, order_spec), 0, []

    def walk(self, num_steps, batch_size=BATCH):
        self.order_state.save_manifest(self.folder)
        ends = list(np.cumsum(list(self.order_state.dataset.sources.values())))
        for _ in range(num_steps):
            draws = self.order_state.order.indices(self.position, batch_size)
            lanes = self.order_state.order.num_lanes
            in_turn = [draw for turn in range(batch_size // lanes) for draw in draws[turn :: batch_size // lanes]]
            for epoch, sample, shape in in_turn:
                group = (int(np.searchsorted(ends, sample, side="right")), shape)
                self.drawn.append((group, epoch, int(self.order_state.dataset.catalog.key(sample))))
            self.position += batch_size
        self.saved = json.loads(json.dumps(self.order_state.record(batch_size)))
        return self

    def restart(self, dataset, order_spec=None, batch_size=BATCH):
        self.order_state = OrderState(dataset, order_spec or self.order_spec)
        self.position = self.order_state.resume(self.saved, self.position, batch_size, self.folder)
        return self


def _goes_on(drawn, before, now, old):
    """Whether draws of a group after the change are what the pass at hand had not had of `now`, then whole passes."""
    epoch = max((epoch for epoch, _ in before), default=-1)
    seen = {number for at, number in before if at == epoch}
    rest = now - seen if epoch >= 0 else set()
    rest = rest if rest & old else set()  # a pass that was complete is not begun again for new samples
    first, later = drawn[: len(rest)], drawn[len(rest) :]
    assert {number for _, number in first} <= rest
    assert len({number for _, number in first}) == len(first)
    for start in range(0, len(later), len(now)):
        one = [number for _, number in later[start : start + len(now)]]
        assert len(set(one)) == len(one)
        assert {at for at, _ in later[start : start + len(now)]} == {epoch + 1 + start // len(now)}


@pytest.mark.parametrize("num_steps", [7, 20])
@pytest.mark.parametrize("change", ["grown", "shrunk", "both"])
@pytest.mark.parametrize("kind", ORDERS)
def test_the_pass_at_hand_is_gone_through_to_its_end(dataset, tmp_path, kind, change, num_steps):
    sources = 2 if "sources" in kind else 1
    old = [range(30), range(30, 50), range(50, 90)]
    new = {
        "grown": [old[0], [*range(100, 125), *old[1]], old[2]],
        "shrunk": [old[0], old[2]],
        "both": [range(10, 50), [*range(50, 80), 130, 131]],
    }[change]
    run = _Run(tmp_path, _arrangement(**ORDERS[kind]), dataset(*old, sources=sources)).walk(num_steps)
    before, run.drawn = run.drawn, []
    run.restart(dataset(*new, sources=sources)).walk(40)
    sides = [new[:-1], new[-1:]] if sources == 2 else [new]
    members = [[number for numbers in side for number in numbers] for side in sides]
    for group in {group for group, *_ in run.drawn}:
        now = {n for n in members[group[0]] if group[1] is None or SHAPES[n % 3] == _nearest(group[1])}
        drawn = ([draw[1:] for draw in part if draw[0] == group] for part in (run.drawn, before))
        _goes_on(*drawn, now, {number for numbers in old for number in numbers})


def _nearest(shape):
    height, width = shape
    return SHAPES[0] if width > height else SHAPES[2] if height > width else SHAPES[1]


@pytest.mark.parametrize("kind", ORDERS)
def test_a_run_that_went_on_with_other_data_resumes_exactly(dataset, tmp_path, kind, caplog):
    sources = 2 if "sources" in kind else 1
    old, new = (
        dataset(range(30), range(30, 50), sources=sources),
        dataset(range(10, 30), range(30, 70), sources=sources),
    )
    whole = _Run(tmp_path / "whole", _arrangement(**ORDERS[kind]), old).walk(4).restart(new).walk(30)
    assert "20 samples are new, 10 are gone" in caplog.text
    parts = _Run(tmp_path / "parts", _arrangement(**ORDERS[kind]), old).walk(4).restart(new).walk(2)
    for num_steps in (1, 12, 15):
        parts.restart(new).walk(num_steps)
    assert parts.drawn == whole.drawn
    assert parts.order_state.id == whole.order_state.id


@pytest.mark.parametrize("resumed", [False, True])
def test_data_that_changes_twice_within_a_pass_repeats_nothing(dataset, tmp_path, resumed, caplog):
    run = _Run(tmp_path, _arrangement(), dataset(range(60))).walk(4)
    run.restart(dataset(range(60), range(60, 90))).walk(3)
    if resumed:
        run.restart(run.order_state.dataset)
    run.restart(dataset(range(60), range(60, 90), range(100, 106))).walk(9)
    assert "6 samples are new, 0 are gone" in caplog.text
    assert sorted(number for _, _, number in run.drawn) == [*range(90), *range(100, 106)]
    assert {epoch for _, epoch, _ in run.drawn} == {0}


def test_shards_in_another_order_under_other_names_hold_the_same_samples(dataset, tmp_path, caplog):
    run = _Run(tmp_path, _arrangement(), dataset(range(20), range(20, 48))).walk(3)
    run.restart(dataset(range(20, 44), [*range(20), *range(44, 48)])).walk(5)
    assert "0 samples are new, 0 are gone" in caplog.text
    assert sorted(number for _, _, number in run.drawn) == list(range(48))


def test_a_sample_whose_contents_changed_is_a_new_one(dataset, make_tar, tmp_path):
    before = dataset(range(5)).sample_ids()
    members = [
        (f"{i:03d}.{ext}", data) for i in range(5) for ext, data in (("txt", b"text"), ("png", _png(i + (i == 3))))
    ]
    after = ShardDataset(str(make_tar(members, "other.tar")), Preprocess(ImageTransform(16))).sample_ids()
    assert (before == after).tolist() == [True, True, True, False, True]


def test_copies_of_a_sample_are_drawn_as_often_as_there_are(dataset, tmp_path):
    run = _Run(tmp_path, _arrangement(), dataset(range(12), range(12))).walk(2)
    run.restart(dataset(range(12), range(12), range(12))).walk(4)
    assert sorted(number for _, _, number in run.drawn) == sorted([*range(12)] * 3)


def test_one_source_becomes_one_of_several(dataset, tmp_path):
    """The one whose name is gone; the other begins its first pass."""
    run = _Run(tmp_path, _arrangement(), dataset(range(18), range(18, 36))).walk(4)
    run.restart(dataset(range(18), range(18, 36), range(40, 52), sources=2)).walk(4)
    first_pass = sorted(number for _, epoch, number in run.drawn if epoch == 0)
    assert [number for number in first_pass if number < 40] == list(range(36))
    assert all(epoch == 0 for _, epoch, number in run.drawn if number >= 40)


@pytest.mark.parametrize("num_steps", [5, 11, 16])
def test_another_seed_or_batch_size_in_buckets_goes_on_with_what_is_left(dataset, tmp_path, num_steps):
    data = dataset(range(90))
    run = _Run(tmp_path, _arrangement(**ORDERS["buckets"]), data).walk(num_steps)
    run.restart(data, batch_size=8).walk(9, 8)
    run.restart(data, _arrangement(seed=1, **ORDERS["buckets"])).walk(20)
    assert len(set(run.drawn)) == len(run.drawn)
    for number in range(90):
        epochs = [epoch for _, epoch, drawn in run.drawn if drawn == number]
        assert sorted(epochs) == list(range(len(epochs)))


def test_without_buckets_another_batch_size_goes_on_with_the_very_next_sample(dataset, tmp_path):
    data = dataset(range(50))
    whole = _Run(tmp_path, _arrangement(), data).walk(20)
    parts = _Run(tmp_path, _arrangement(), data).walk(4).restart(data, batch_size=10).walk(6, 10)
    assert parts.drawn == whole.drawn[: len(parts.drawn)]


def test_points_that_are_others_begin_their_first_pass(tmp_path):
    course = OrderState(PointsDataset("spiral", 20), _arrangement())
    course.save_manifest(tmp_path)
    other = OrderState(PointsDataset("spiral", 30), _arrangement())
    assert other.resume(course.record(BATCH), 12, BATCH, tmp_path) == 0
    assert sorted(draw[:2] for draw in other.order.indices(0, 30)) == [(0, sample) for sample in range(30)]


@pytest.mark.parametrize("damage", [b"", b"PK\3\4", None, "cut", "flip"])
def test_a_roster_that_is_not_whole_is_refused_where_it_is_needed(dataset, tmp_path, damage):
    data = dataset(range(30))
    run = _Run(tmp_path, _arrangement(), data).walk(2)
    [path] = tmp_path.glob("roster-*.npz")
    whole = path.read_bytes()
    path.unlink()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    if damage is not None:
        path.write_bytes({"cut": whole[:-30], "flip": bytes(flipped)}.get(damage, damage))
    assert run.restart(data).position == 12  # not needed
    with pytest.raises(ValueError, match=rf"{path}: cannot be read .*copy it from the checkpoints"):
        run.restart(dataset(range(40)))


def test_a_roster_is_written_once_and_gives_back_what_it_holds(dataset, tmp_path):
    run = _Run(
        tmp_path, _arrangement(**ORDERS["sources-in-buckets"]), dataset(range(30), range(30, 50), sources=2)
    ).walk(3)
    [path] = tmp_path.glob("roster-*.npz")
    written = path.stat()
    run.order_state.save_manifest(tmp_path)
    assert path.stat().st_mtime_ns == written.st_mtime_ns
    roster = SampleManifest.read(path)
    assert roster.sample_ids.tolist() == run.order_state.dataset.sample_ids().tolist()
    assert roster.sizes.tolist() == run.order_state.dataset.sizes().tolist()
    assert (dict(roster.sources), roster.newest) == ({"a": 30, "b": 20}, None)
