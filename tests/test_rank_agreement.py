"""Ranks that differ end together before the first step; ranks that agree resume from the first one's checkpoint."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from checkpoint_state import state
from omegaconf import OmegaConf
from pytorch_lightning.strategies import DDPStrategy
from warm_process import python

from diffusion_train.config import ConfigError
from diffusion_train.rank_agreement import CheckpointFile, Report, agree, differing, facts, unseen
from diffusion_train.run_folder import step_name
from diffusion_train.training.checkpoint.checkpoint_file import load
from diffusion_train.utils.exit_code import Exit

ROOT = Path(__file__).parents[1]
SETTINGS = {"optimizer.lr": 1e-3, "seed": 0, "data": "abc", "torch": "2.10"}


def test_ranks_that_agree_have_no_mistakes() -> None:
    assert differing([Report(host, dict(SETTINGS)) for host in "abc"]) == []


@pytest.mark.parametrize("name", SETTINGS)
def test_a_difference_names_both_values_ranks_and_hosts(name: str) -> None:
    (mistake,) = differing([Report("a", SETTINGS), Report("b", {**SETTINGS, name: "other"})])
    assert mistake.where == name
    assert mistake.problem.endswith(f"got {SETTINGS[name]} on rank 0 (a), other on rank 1 (b)")
    assert ("install" in mistake.remedy) == (name == "torch")


def test_ranks_with_one_value_are_listed_once() -> None:
    others = [Report(f"b{number}", {"seed": 1}) for number in range(7)]
    (mistake,) = differing([Report("a", {"seed": 0}), *others])
    assert mistake.problem.endswith("got 0 on rank 0 (a), 1 on rank 1 (b0) and 6 more")


def test_a_setting_that_one_rank_lacks_is_a_difference() -> None:
    (mistake,) = differing([Report("a", {}), Report("b", {"ema.decay": 0.9})])
    assert mistake.problem.endswith("got no such setting on rank 0 (a), 0.9 on rank 1 (b)")


def test_long_values_are_compared_whole_and_shown_where_they_differ() -> None:
    shards = [f"/data/shard-{number:06d}.tar" for number in range(20)]
    others = [*shards[:-1], "/data/other.tar", *shards]
    (mistake,) = differing([Report("a", {"data.shards": shards}), Report("b", {"data.shards": others})])
    before, after = mistake.problem.split(" on rank 0 (a), ")
    assert before.endswith("…000018.tar', '/data/shard-000019.tar']")
    assert after.startswith("…000018.tar', '/data/other.tar', '/data/shard-000000.tar'")
    assert len(mistake.problem) < 600


def test_what_a_host_may_have_of_its_own_is_not_compared() -> None:
    cfg = OmegaConf.create(
        {
            "seed": 1,
            "data": {"num_workers": 3, "storage": {"cache_folder": "/here"}, "shards": "x.tar"},
            "autoencoder": {"source": "/models/a"},
            "hub_token": "abcdefghij",
        }
    )
    shared = facts(cfg, {"data": "abc"})
    versions = {"diffusion_train", "torch"}
    assert shared.keys() - versions == {"seed", "data.shards", "autoencoder.source", "hub_token", "data"}
    assert versions <= shared.keys()
    assert shared["hub_token"] == "***"
    cfg.base_record = {"sha256": "abc", "folder": "/models/a"}
    assert "base_record.sha256" in facts(cfg, {})
    assert not {"autoencoder.source", "base_record.folder"} & facts(cfg, {}).keys()


@pytest.fixture
def checkpoint(tmp_path: Path) -> CheckpointFile:
    path = tmp_path / step_name(3)
    torch.save(state(3), path)
    return CheckpointFile.read(path)


def test_the_same_file_is_no_difference(checkpoint: CheckpointFile) -> None:
    assert checkpoint.step == 3
    assert checkpoint.difference(patience=0) is None


def test_a_file_that_differs(checkpoint: CheckpointFile) -> None:
    content = checkpoint.path.read_bytes()
    checkpoint.path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    problem = checkpoint.difference(patience=60)
    assert problem
    assert problem.startswith("sees a file with SHA-256 ")
    checkpoint.path.write_bytes(content[:-1])
    assert checkpoint.difference(patience=0) == (
        f"sees a file of {len(content) - 1} bytes there, which must have {len(content)}"
    )
    checkpoint.path.unlink()
    assert checkpoint.difference(patience=0) == "sees no such file"
    (mistake,) = unseen([Report("a", {}, checkpoint), Report("b", {}), Report("c", {})], [None, None, "sees none"])
    for part in (
        "rank 0 (a) resumes from step 3",
        str(checkpoint.path),
        checkpoint.sha256[:12],
        "rank 2 (c) sees none",
    ):
        assert part in mistake.problem


def test_a_file_that_a_slow_file_system_shows_later_is_no_difference(checkpoint: CheckpointFile) -> None:
    content = checkpoint.path.read_bytes()
    checkpoint.path.unlink()
    threading.Timer(0.3, checkpoint.path.write_bytes, [content]).start()
    assert checkpoint.difference(patience=60) is None


def test_ranks_that_do_not_come_are_missed_with_a_message(monkeypatch) -> None:
    alone = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2", "LOCAL_RANK": "0"}
    for name, value in alone.items():
        monkeypatch.setenv(name, value)
    strategy = DDPStrategy(timeout=timedelta(milliseconds=200), process_group_backend="gloo")
    trainer = pl.Trainer(accelerator="cpu", devices=2, strategy=strategy, logger=False, enable_checkpointing=False)
    with pytest.raises(ConfigError, match=r"rank 0 \(.*\)\n +cannot reach all 2 ranks: .*; the output of the others"):
        agree(trainer, {}, None)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


SMALL = [
    *("experiment=points", "logger=none", "data.batch_size=24", "data.num_samples=100", "data.holdout=4"),
    *("network.width=16", "network.depth=1", "callbacks.samples.num_samples=8", "trainer.log_every_n_steps=1"),
    "run_dir=/proc/self/cwd/run",  # one name, another folder for each working folder
]
SAVED = ("trainer.max_steps=2", "callbacks.checkpointing.every_n_steps=1")


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    """A folder whose `run` has the checkpoints of steps 1 and 2."""
    folder = tmp_path_factory.mktemp("saved")
    done = python(ROOT / "train.py", *SMALL, "trainer=cpu", *SAVED, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


def two_ranks(folders: tuple[Path, Path], *of_rank_1: str) -> list[subprocess.CompletedProcess[str]]:
    """Resume to step 3, as torchrun and srun start it: a command for each rank, here with other folders or settings."""
    common = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2"}

    def start(rank: int) -> subprocess.CompletedProcess[str]:
        arguments = [*SMALL, "trainer=ddp_cpu", "trainer.max_steps=3", *(of_rank_1 if rank else ())]
        environment = {**common, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        return python(ROOT / "train.py", *arguments, cwd=folders[rank], env=environment, timeout=120)

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(start, range(2)))


def copy(saved: Path, folder: Path) -> Path:
    return Path(shutil.copytree(saved, folder, symlinks=True))


@pytest.mark.slow
def test_all_follow_the_first_rank_even_if_one_sees_other_checkpoints(saved: Path, tmp_path: Path) -> None:
    folders = copy(saved, tmp_path / "0"), copy(saved, tmp_path / "1")
    (folders[0] / "run" / "checkpoints" / step_name(2)).unlink()
    done = two_ranks(folders)
    assert [rank.returncode for rank in done] == [0, 0], [rank.stderr for rank in done]
    assert "resuming from step_00000001.ckpt" in done[0].stderr
    assert load(folders[0] / "run" / "checkpoints" / step_name(3))["global_step"] == 3


@pytest.mark.slow
def test_a_rank_that_sees_another_checkpoint_ends_the_run(saved: Path, tmp_path: Path) -> None:
    folders = copy(saved, tmp_path / "0"), copy(saved, tmp_path / "1")
    path = folders[1] / "run" / "checkpoints" / step_name(2)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    first, other = two_ranks(folders)
    assert (first.returncode, other.returncode) == (Exit.WRONG, Exit.WRONG), first.stderr + other.stderr
    host = socket.gethostname()
    assert f"rank 0 ({host}) resumes from step 2, " in first.stderr
    assert f"but rank 1 ({host}) sees a file with SHA-256 " in first.stderr
    assert f"cannot start because the ranks of this run differ; see the message of rank 0 ({host})" in other.stderr
    assert not (folders[0] / "run" / "checkpoints" / step_name(3)).exists()


@pytest.mark.slow
def test_other_settings_and_data_on_one_rank_end_the_run(saved: Path, tmp_path: Path) -> None:
    folder = copy(saved, tmp_path / "0")
    begun = time.monotonic()
    first, other = two_ranks((folder, folder), "optimizer.lr=0.5", "trainer.max_steps=7", "data.num_samples=90")
    assert time.monotonic() - begun < 60
    assert (first.returncode, other.returncode) == (Exit.WRONG, Exit.WRONG), first.stderr + other.stderr
    host = socket.gethostname()
    assert "4 mistakes" in first.stderr
    for key, values in {
        "optimizer.lr": (0.002, 0.5),
        "trainer.max_steps": (3, 7),
        "data.num_samples": (100, 90),
    }.items():
        got = f"got {values[0]} on rank 0 ({host}), {values[1]} on rank 1 ({host});"
        assert f"  {key}\n    must be equal on all ranks, {got}" in first.stderr
    assert "\n  data\n    must be equal on all ranks, got " in first.stderr
    assert "Traceback" not in first.stderr + other.stderr
