"""Data sets that are empty, too small for what is asked of them, or not to be read by this user."""

from __future__ import annotations

import itertools
import os
import pwd
import subprocess
import sys
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from diffusion_train.data.datamodule import DataModule
from diffusion_train.data.order.order import Order
from diffusion_train.data.order.order_spec import OrderSpec
from diffusion_train.data.shard.problem import DataError
from diffusion_train.utils.exit_code import Exit


def test_no_shards_or_an_empty_data_set(train, make_tar, make_png, make_dataset, tmp_path):
    """Told before the model is made, which here cannot be made."""
    pattern = f"{tmp_path}/{{00..03}}.tar"
    run = train(pattern, "adapter=lora")  # of no pretrained model
    assert run.code == Exit.WRONG
    for number in range(4):
        name = f"{tmp_path}/0{number}.tar"
        assert f"{name}: pattern {pattern} matched 0 files in {tmp_path}" in run.told
    assert "adapter" not in run.told
    empty = make_tar([("README", b"nothing")])
    with pytest.raises(DataError, match=f"{empty} at byte 0: contains no sample"):
        make_dataset(empty)
    small = make_tar([("a.png", make_png(0, 9, 9)), ("a.txt", b"")])
    with pytest.raises(DataError, match=r"all 1 samples are left out \(1 a side below data\.min_side=10\)"):
        make_dataset(small, min_side=10)


def _module(dataset, rank, world_size, **options):
    data = DataModule(dataset, OrderSpec(partial(Order, seed=0, block_size=2, window=2)), **options)
    strategy = SimpleNamespace(root_device=torch.device("cpu"))
    data.trainer = SimpleNamespace(global_rank=rank, world_size=world_size, strategy=strategy)
    return data


def test_fewer_shards_than_ranks_and_workers(make_shards, make_dataset):
    """One shard for two ranks of two workers: shares of equal size, and every sample once an epoch."""
    [path] = make_shards(8, 8)
    dataset = make_dataset(path)
    shares = []
    for rank in range(2):
        data = _module(dataset, rank, 2, batch_size=4, num_workers=2)
        shares.append([batch["key"] for batch in itertools.islice(data.train_dataloader(), 4)])
    assert [[len(keys) for keys in share] for share in shares] == [[2] * 4] * 2
    for epoch in (slice(0, 2), slice(2, 4)):
        seen = [key for share in shares for keys in share[epoch] for key in keys]
        assert sorted(seen) == [f"k{number:05d}" for number in range(8)]


def test_fewer_samples_than_one_global_batch(make_shards, train):
    run = train(make_shards(3, 3), "data.batch_size=8")
    assert run.code == Exit.WRONG
    assert "data.batch_size=8 must be at most 3, the number of training samples" in run.told


DROP = """
import ctypes, os, sys
for capability in (1, 2):  # those by which root reads whatever its mode; the next program has them no more
    ctypes.CDLL(None).prctl(24, capability)
os.execv(sys.executable, [sys.executable, "-c", *sys.argv[1:]])
"""

OPEN = """
import sys
from diffusion_train.command.cli import guarded
from diffusion_train.data.shard.catalog_builder import open_shards
sys.exit(guarded(lambda: open_shards(sys.argv[1:])))
"""


def test_an_unreadable_shard_or_folder_or_a_dangling_link(make_shards, tmp_path):
    """All at once, with path and user, and not as a root that may read everything."""
    file, inside = make_shards(2, 2, "one") + make_shards(2, 2, "closed")
    link = tmp_path / "link.tar"
    link.symlink_to(tmp_path / "gone.tar")
    file.chmod(0)
    inside.parent.chmod(0)
    shards = [str(shard) for shard in (file, inside, inside.parent / "*.tar", link)]
    command = [sys.executable, "-c", DROP, OPEN, *shards]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    finally:
        inside.parent.chmod(0o700)
    assert done.returncode == Exit.WRONG, done.stderr
    user = pwd.getpwuid(os.geteuid()).pw_name
    assert f"{file}: Permission denied for user {user}" in done.stderr
    assert f"{inside}: Permission denied for user {user}" in done.stderr
    assert f"{inside.parent}/*.tar: {inside.parent}: Permission denied for user {user}" in done.stderr
    assert f"{link}: a broken link" in done.stderr
