"""What is read before its turn is what would have been read in it."""

from __future__ import annotations

import csv
import itertools
import multiprocessing
import re
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import replace
from functools import partial

import pytest
import pytorch_lightning as pl
import torch

from diffusion_train.callbacks.retries import Retries
from diffusion_train.data.datamodule import DataModule
from diffusion_train.data.dataset import ShardDataset
from diffusion_train.data.image.preprocess import Preprocess
from diffusion_train.data.image.transform import ImageTransform
from diffusion_train.data.order.order import Order
from diffusion_train.data.order.order_spec import OrderSpec
from diffusion_train.data.storage.base import Missing, Range, StorageError
from diffusion_train.data.storage.by_scheme import StorageByScheme
from diffusion_train.data.storage.local import LocalStorage
from diffusion_train.data.storage.settings import StorageSettings
from diffusion_train.logger.metrics_file import MetricsFile

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
QUICK = StorageSettings(connect_timeout=1, read_timeout=0.5, deadline=2, gap_bytes=0)


@pytest.fixture
def make_data(make_shards, server):
    """24 samples in 6 shards on the server, in batches of 4."""
    paths = make_shards(24, 4)
    for path in paths:
        server.objects[f"/{path.name}"] = path.read_bytes()

    def make(num_workers=0, settings=QUICK, **options):
        storage = StorageByScheme(replace(settings, **options))
        urls = [server.url(f"/{path.name}") for path in paths]
        dataset = ShardDataset(urls, Preprocess(ImageTransform(16, flip=True)), storage=storage)
        server.seen.clear()
        if folder := options.get("cache_folder"):
            shutil.rmtree(folder, ignore_errors=True)  # which making the index has filled
        return DataModule(
            dataset, OrderSpec(partial(Order, seed=0, block_size=4, window=2)), 4, num_workers=num_workers
        )

    return make


def _take(data, count):
    return list(itertools.islice(data.train_dataloader(), count))


def _until(condition):
    deadline = time.monotonic() + 10
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert condition()


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("cached", [False, True], ids=["memory", "cache"])
def test_batches_are_the_same_bit_for_bit(make_data, tmp_path, num_workers, cached):
    plain = _take(make_data(ahead_bytes=0), 10)
    ahead = make_data(num_workers, cache_folder=tmp_path / "blocks" if cached else None)
    for one, other in zip(plain, _take(ahead, 10), strict=True):
        assert torch.equal(one["x"], other["x"])
        assert (one["key"], one["caption"]) == (other["key"], other["caption"])


def test_a_restart_elsewhere_reads_what_is_due_there(make_data):
    data = make_data()
    whole = [batch["key"] for batch in _take(data, 9)]
    data.seek(5, 20)
    assert [batch["key"] for batch in _take(data, 4)] == whole[5:]


def test_coming_batches_are_asked_for_before_their_turn(make_data, server):
    loader = iter(make_data().train_dataloader())
    server.plan.extend([lambda handler: handler.ok()] * 4)
    server.always = lambda handler: (time.sleep(0.3), handler.ok())
    next(loader)
    _until(lambda: len(server.seen) > 8)
    time.sleep(0.5)
    started = time.monotonic()
    next(loader)
    assert time.monotonic() - started < 0.25


def test_files_in_memory_are_read_in_their_turn_and_ahead_once_reading_has_waited(make_shards, monkeypatch):
    """To look up batches early would only take time."""
    data = DataModule(
        ShardDataset(list(map(str, make_shards(24, 4))), Preprocess(ImageTransform(16))),
        OrderSpec(partial(Order, seed=0)),
        4,
    )
    begin, storage, begun = StorageByScheme.begin, data.dataset.storage, []
    monkeypatch.setattr(StorageByScheme, "begin", lambda *of: (begun.append(of), begin(*of))[1])
    monkeypatch.setattr("diffusion_train.data.storage.local._PAGE", 1)
    monkeypatch.setattr("diffusion_train.data.storage.local._WAITED", 60)
    storage._local.has_waited = False
    loader = iter(data.train_dataloader())
    for number in range(1, 4):
        next(loader)
        assert len(begun) == number
    storage._local.has_waited = True
    next(loader)
    assert len(begun) == 4 + 8


def test_what_is_held_is_bounded(make_data, server):
    data = make_data(ahead_bytes=1)
    loader = iter(data.train_dataloader())
    for number in range(1, 4):
        next(loader)
        time.sleep(0.2)
        held = sum(
            last - first + 1 for first, last in (map(int, re.findall(r"\d+", asked)) for asked in server.ranges())
        )
        wanted = sum(data.dataset.begin(data.order.indices(4 * step, 4)).num_bytes for step in range(number + 1))
        assert held <= wanted * 1.8  # what stands between the members of a sample is read too
        server.seen.clear()


def test_a_fault_shows_in_its_own_turn(make_data, server):
    data = make_data()
    good = [batch["key"] for batch in _take(data, 6)]
    lost = next(step for step in range(1, 6) if not {key[:5] for key in good[step]} & {key[:5] for key in good[0]})
    shard = int(good[lost][0][1:]) // 4
    due = next(step for step, keys in enumerate(good) if any(int(key[1:]) // 4 == shard for key in keys))
    del server.objects[f"/part-{shard:06d}.tar"]
    loader = iter(data.train_dataloader())
    assert [next(loader)["key"] for _ in range(due)] == good[:due]
    with pytest.raises(Missing):
        next(loader)


def test_a_stalled_server_ends_the_run_in_bounded_time_and_leaves_no_thread(make_data, server):
    before = {thread.name for thread in threading.enumerate()}
    data = make_data()
    loader = iter(data.train_dataloader())
    next(loader)
    server.always = lambda handler: handler.stall()
    started = time.monotonic()
    with pytest.raises(StorageError, match=r"127\.0\.0\.1"):
        list(itertools.islice(loader, 20))
    assert time.monotonic() - started < 15
    del data, loader
    _until(lambda: not {thread.name for thread in threading.enumerate()} & {"storage", "prefetch"} - before)


ENDS = """
import sys
from diffusion_train.data.storage.base import Range
from diffusion_train.data.storage.by_scheme import StorageByScheme
from diffusion_train.data.storage.settings import StorageSettings
storage = StorageByScheme(StorageSettings(sys.argv[2] if len(sys.argv) > 2 else None))
url = sys.argv[1]
ranges = [Range(url, storage.stat(url).version, 0, 1000)]
storage.prefetch(ranges) if storage.cache else storage.begin(ranges)
print("done")
"""


@pytest.mark.parametrize("cached", [False, True], ids=["memory", "cache"])
def test_a_process_ends_while_a_server_stalls_what_was_read_ahead(server, tmp_path, cached):
    server.plan.append(lambda handler: handler.ok())
    server.always = lambda handler: handler.stall()
    command = [sys.executable, "-c", ENDS, server.url(), *([str(tmp_path)] if cached else [])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


def _finish_and_send(finish, pipe):
    pipe.send(finish())


def test_what_a_parent_began_is_read_anew_after_a_fork(server):
    storage = StorageByScheme(QUICK)
    _, finish = storage.begin([Range(server.url(), storage.stat(server.url()).version, 5, 1000)])
    here, there = multiprocessing.Pipe()
    child = multiprocessing.get_context("fork").Process(target=_finish_and_send, args=(finish, there))
    child.start()
    assert here.poll(20)
    assert here.recv() == finish() == [server.objects["/a.tar"][5:1005]]
    child.join(5)


def test_blocks_of_the_next_window_come_into_the_cache(make_data, server, tmp_path):
    """A window is two blocks of samples, here two shards or two batches: while one is read the next comes."""
    whole = _take(make_data(ahead_bytes=0), 3)
    needed = {f"/part-{int(key[1:]) // 4:06d}.tar" for batch in whole for key in batch["key"]}
    loader = iter(make_data(cache_folder=tmp_path / "blocks").train_dataloader())
    next(loader)
    _until(lambda: {seen.path for seen in server.seen} >= needed)
    _until(lambda: "prefetch" not in [thread.name for thread in threading.enumerate()])
    server.always = lambda handler: handler.status(404)
    assert [next(loader)["key"] for _ in range(2)] == [batch["key"] for batch in whole[1:]]


class _Reader(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def training_step(self, batch, batch_idx):
        return self.weight * batch["x"].mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


@pytest.mark.parametrize(("cached", "num_workers"), [(False, 0), (True, 1)], ids=["memory", "cache"])
def test_repeated_requests_are_counted_in_the_metrics(make_data, server, tmp_path, num_workers, cached):
    patient = StorageSettings(read_timeout=30, deadline=60, gap_bytes=0)  # a busy machine repeats none of its own
    data = make_data(num_workers, patient, cache_folder=tmp_path / "blocks" if cached else None)
    trainer = pl.Trainer(
        accelerator="cpu", max_steps=6, max_epochs=-1, log_every_n_steps=2, logger=MetricsFile(tmp_path),
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        use_distributed_sampler=False, default_root_dir=tmp_path, callbacks=[Retries()],
    )  # fmt: skip
    server.plan.extend([lambda handler: handler.status(503, Retry_After="0")] * 5)
    trainer.fit(_Reader(), data)
    with (tmp_path / "metrics.csv").open() as file:
        counts = [int(row["data/retries"]) for row in csv.DictReader(file)]
    assert len(counts) == 3
    assert counts == sorted(counts)
    assert counts[-1] == 5


@pytest.mark.parametrize(("ahead_bytes", "first"), [(1 << 20, [0, 1, 2, 3, 4, 5, 6, 7, 8]), (0, [0])])
def test_coming_batches_of_local_files_are_told_to_the_system(make_shards, monkeypatch, ahead_bytes, first):
    storage = StorageByScheme(StorageSettings(ahead_bytes=ahead_bytes))
    dataset = ShardDataset(make_shards(100, 20), Preprocess(ImageTransform(16)), storage=storage)
    loader = DataModule(dataset, OrderSpec(partial(Order, 0)), 4).train_dataloader()
    told: list[int] = []
    monkeypatch.setattr(LocalStorage, "advise", lambda self, ranges: told.append(len(ranges)) or len(ranges))
    batches = iter(loader)
    next(batches)
    assert told == [8] * len(first)
    next(batches)
    assert len(told) == len(first) + 1
