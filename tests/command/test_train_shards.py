"""Training on shards with faults, as a user meets them: seconds each."""

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from warm_process import python

from diffusion_train.data.shard.writer import write_shard, write_shards
from diffusion_train.training.checkpoint.checkpoint_file import load

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]


def _jpeg(number: int) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "jpeg")
    return out.getvalue()


@pytest.fixture
def shards(tmp_path: Path) -> list[Path]:
    """Forty samples in four shards; the image of k00013 ends early."""
    return write_shards((_sample(i) for i in range(40)), tmp_path / "shards", "part", 10)


def _sample(number: int) -> dict[str, object]:
    image = _jpeg(number)[: -100 if number == 13 else None]
    return {"__key__": f"k{number:05d}", "jpg": image, "txt": f"caption {number}"}


def command(shards: list[Path], run_dir: Path, *arguments: str) -> list[str]:
    small = ["data.image_size=16", "data.batch_size=8", "network.channels=[32,32,32,32]", "sampler.num_steps=2"]
    small += [f"run_dir={run_dir}", f"data.shards='{shards[0].parent}/*.tar'", "logger=none", "data.num_workers=0"]
    small += ["debug=record_samples", "callbacks.bad_samples.max_share=0.2", "trainer.log_every_n_steps=1"]
    return ["train.py", "experiment=ddpm_cifar_style", *small, *arguments]


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return python(*command(*arguments))


@contextmanager
def under_way(shards: list[Path], run_dir: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A run that has made its first step; it and what it started do not outlive the block."""
    process = subprocess.Popen(
        [sys.executable, *command(shards, run_dir, "trainer.max_steps=100000", *arguments)],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    log, deadline = run_dir / "samples_seen.jsonl", time.monotonic() + 120
    try:
        while process.poll() is None and not (log.exists() and log.stat().st_size) and time.monotonic() < deadline:
            time.sleep(0.05)
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def seen(run_dir: Path) -> list[list[str]]:
    return [json.loads(line)["keys"] for line in (run_dir / "samples_seen.jsonl").read_text().splitlines()]


def test_a_bad_sample_is_replaced_alike_by_any_workers_and_after_a_restart(shards: list[Path], tmp_path: Path) -> None:
    whole = run(shards, tmp_path / "whole", "trainer.max_steps=10")
    assert whole.returncode == 0, whole.stderr
    for stop, workers in ((4, 2), (10, 1)):
        part = run(shards, tmp_path / "parts", f"trainer.max_steps={stop}", f"data.num_workers={workers}")
        assert part.returncode == 0, part.stderr
    assert seen(tmp_path / "parts") == seen(tmp_path / "whole")
    assert "k00013" not in {key for keys in seen(tmp_path / "whole") for key in keys}
    for folder in ("whole", "parts"):
        [line] = (tmp_path / folder / "bad_samples.jsonl").read_text().splitlines()
        told = json.loads(line)
        assert (told["key"], Path(told["shard"]).name) == ("k00013", "part-000001.tar")
    assert (tmp_path / "parts" / "weights.safetensors").read_bytes()[-1000:] == (
        tmp_path / "whole" / "weights.safetensors"
    ).read_bytes()[-1000:]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_shard_replaced_while_training_ends_the_run_with_4(
    shards: list[Path], tmp_path: Path, num_workers: int
) -> None:
    with under_way(shards, tmp_path / "run", f"data.num_workers={num_workers}") as process:
        other = shards[0].read_bytes()[:4000]
        for shard in shards:
            with shard.open("r+b") as file:  # the same file, other contents
                file.write(other)
        _, error = process.communicate(timeout=120)
    assert process.returncode == 4, error
    assert "changed since it was indexed" in error.splitlines()[-2]
    assert "the last one saved" in error.splitlines()[-1]
    assert "Traceback" not in error


def _drawn(run_dir: Path, start: int, end: int) -> list[int]:
    return [int(key[1:]) for keys in seen(run_dir)[start:end] for key in keys]


def test_shapes_that_the_network_cannot_take_are_told_before_the_first_step(shards: list[Path], tmp_path: Path) -> None:
    wrong = run(shards, tmp_path / "run", "data.image_size=20", "data.holdout=-1", "ema.decays=[2]")
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("3 mistakes in the configuration:\n")
    assert (
        "data.image_size=20\n    the network needs images (or latents) with sides divisible by 8; use 16 or 24"
        in wrong.stderr
    )


def test_a_run_goes_on_with_shards_added_and_taken_away(shards: list[Path], tmp_path: Path) -> None:
    """30 samples, 16 of them drawn; then 50, of which 34 are left, 8 of them drawn;
    then 40, without the first shard.
    """
    folder, away = shards[0].parent, tmp_path / "away.tar"
    shards[3].rename(away)
    write_shard((_sample(i) for i in range(50, 60)), folder / "part-000001.tar")  # none with a fault here
    first = [*range(10), *range(50, 60), *range(20, 30)]

    def go(name: str, num_steps: int, *arguments: str) -> subprocess.CompletedProcess[str]:
        done = run(shards, tmp_path / name, f"trainer.max_steps={num_steps}", *arguments)
        assert done.returncode in (0, 2), done.stderr
        return done

    go("run", 2)
    away.rename(shards[3])
    write_shard((_sample(i) for i in range(60, 70)), folder / "part-000000-b.tar")
    refused = go("run", 4)
    assert refused.returncode == 2
    assert (
        "or resume anyway with allow_mismatch=[data]: new samples and those that the current pass has not drawn yet"
        in refused.stderr
    )
    assert "Traceback" not in refused.stderr
    shutil.copytree(tmp_path / "run", tmp_path / "stopped")
    went_on = go("run", 9, "allow_mismatch=[data]")
    assert "20 samples are new, 0 are gone" in went_on.stderr
    assert sorted(_drawn(tmp_path / "run", 0, 7)[:50]) == sorted([*first, *range(30, 40), *range(60, 70)])

    go("stopped", 3, "allow_mismatch=[data]")
    shutil.copytree(tmp_path / "stopped", tmp_path / "shrunk")
    go("stopped", 9)
    assert seen(tmp_path / "stopped") == seen(tmp_path / "run")

    shards[0].unlink()
    went_on = go("shrunk", 12, "allow_mismatch=[data]")
    assert "0 samples are new, 10 are gone" in went_on.stderr
    still = {*range(20, 40), *range(50, 70)}
    left = still - set(_drawn(tmp_path / "shrunk", 0, 3))
    after = _drawn(tmp_path / "shrunk", 3, 12)
    assert len(left) >= 16
    assert sorted(after[: len(left)]) == sorted(left)
    assert sorted(after[len(left) : len(left) + 40]) == sorted(still)


def test_a_shard_that_changes_ends_the_run_saved_and_mended_it_goes_on(shards: list[Path], tmp_path: Path) -> None:
    whole = run(shards, tmp_path / "whole", "trainer.max_steps=12")
    assert whole.returncode == 0, whole.stderr
    contents = shards[0].read_bytes()
    with under_way(shards, tmp_path / "run") as process:
        with shards[0].open("r+b") as file:
            file.write(contents[512:4096])
        _, error = process.communicate(timeout=120)
    assert process.returncode == 4, error
    step = len(seen(tmp_path / "run"))
    assert f"the same command with run_dir={tmp_path / 'run'} resumes from step {step}, the last one saved" in error
    assert load(tmp_path / "run" / "checkpoints" / "last.ckpt")["diffusion_train"]["step"] == step
    shards[0].write_bytes(contents)
    done = run(shards, tmp_path / "run", f"trainer.max_steps={max(step, 12)}")
    assert done.returncode == 0, done.stderr
    assert seen(tmp_path / "run")[:12] == seen(tmp_path / "whole")


def test_storage_that_fails_one_of_two_processes_ends_both_saved(shards: list[Path], tmp_path: Path) -> None:
    """The two read half a batch each: with one shard gone, one of them is the first to miss a sample."""
    with under_way(shards, tmp_path / "run", "trainer=ddp_cpu", "data.batch_size=2") as process:
        with shards[0].open("r+b") as file:
            file.write(shards[1].read_bytes()[:4096])
        _, error = process.communicate(timeout=120)
    assert process.returncode == 4, error
    assert re.search(
        rf"process [01] of 2 cannot read its data: .*{shards[0].name}: changed since it was indexed", error
    )
    assert "Traceback" not in error
    step = load(tmp_path / "run" / "checkpoints" / "last.ckpt")["diffusion_train"]["step"]
    assert step > 0
    assert f"resumes from step {step}, the last one saved" in error


def test_too_many_bad_samples_end_the_run_with_4(shards: list[Path], tmp_path: Path) -> None:
    done = run(shards, tmp_path / "run", "trainer.max_steps=20", "callbacks.bad_samples.max_share=0.01")
    assert done.returncode == 4
    assert "1 of 40 samples are bad, more than callbacks.bad_samples.max_share=0.01" in done.stderr
    step = load(tmp_path / "run" / "checkpoints" / "last.ckpt")["diffusion_train"]["step"]
    assert step > 0
    assert f"resumes from step {step}, the last one saved" in done.stderr
