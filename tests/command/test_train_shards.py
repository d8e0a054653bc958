"""Training on shards with faults, as a user meets them: seconds each."""

import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffusion_train.data.shards import write_shards

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
    images = {i: _jpeg(i)[: -100 if i == 13 else None] for i in range(40)}
    samples = ({"__key__": f"k{i:05d}", "jpg": images[i], "txt": f"caption {i}"} for i in range(40))
    return write_shards(samples, tmp_path / "shards", "part", 10)


def command(shards: list[Path], run_dir: Path, *arguments: str) -> list[str]:
    small = ["data.image_size=16", "data.batch_size=8", "network.channels=[32,32,32,32]", "sampler.num_steps=2"]
    small += [f"run_dir={run_dir}", f"data.shards='{shards[0].parent}/*.tar'", "logger=none", "data.num_workers=0"]
    small += ["debug=record_samples", "callbacks.bad_samples.max_share=0.2", "trainer.log_every_n_steps=1"]
    return [sys.executable, "train.py", "experiment=ddpm_cifar_style", *small, *arguments]


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command(*arguments), cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False
    )


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
    arguments = command(shards, tmp_path / "run", "trainer.max_steps=100000", f"data.num_workers={num_workers}")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(arguments, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
    log, deadline = tmp_path / "run" / "samples_seen.jsonl", time.monotonic() + 120
    while process.poll() is None and not (log.exists() and log.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.1)
    other = tmp_path / "other.tar"
    other.write_bytes(shards[0].read_bytes())
    for shard in shards:
        with shard.open("r+b") as file:  # the same file, other contents
            file.write(other.read_bytes()[:4000])
    _, error = process.communicate(timeout=120)
    assert process.returncode == 4, error
    assert "changed since it was indexed" in error.splitlines()[-1]
    assert "Traceback" not in error


def test_too_many_bad_samples_end_the_run_with_4(shards: list[Path], tmp_path: Path) -> None:
    done = run(shards, tmp_path / "run", "trainer.max_steps=20", "callbacks.bad_samples.max_share=0.01")
    assert done.returncode == 4
    assert "1 bad samples, more than callbacks.bad_samples.max_share=0.01 of 40" in done.stderr
