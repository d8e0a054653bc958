"""Adapters on a run of ours, as a user gives the commands."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from warm_process import python

from diffusion_train.training.checkpoint.checkpoint_file import load
from diffusion_train.training.weights import load_weights

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
SMALL = [
    "experiment=points",
    "logger=none",
    "trainer=cpu",
    "data.batch_size=24",
    "data.num_samples=100",
    "data.holdout=4",
    "network.width=16",
    "network.depth=1",
    "callbacks.samples.num_samples=8",
    "trainer.max_steps=6",
]
LORA = ["adapter=lora", "adapter.rank=4", "adapter.targets='.*'"]


def run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return python(script, *arguments)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, and adapters on it trained by one process and by two."""
    folder = tmp_path_factory.mktemp("runs")
    given = [*LORA, f"pretrained={folder / 'base'}"]
    for name, arguments in {"base": [], "lora": given}.items():
        done = run("train.py", *SMALL, f"run_dir={folder / name}", *arguments)
        assert done.returncode == 0, done.stderr
    return folder


def grid(folder: Path, *arguments: str) -> bytes:
    done = run("sample.py", f"out={folder}", "num_samples=4", *arguments)
    assert done.returncode == 0, done.stderr
    return (folder / "grid.png").read_bytes()


def test_sampled_from_by_its_run_folder_at_any_scale(runs: Path, tmp_path: Path) -> None:
    base = grid(tmp_path / "base", f"run={runs / 'base'}")
    lora = {
        scale: grid(tmp_path / scale, f"run={runs / 'lora'}", f"adapter.scale={scale}", "name=points")
        for scale in ("0", "1", "1.0e+3")
    }
    plain = grid(tmp_path / "plain", f"run={runs / 'lora'}")
    assert lora["0"] == base
    assert lora["1"] == plain
    assert lora["1.0e+3"] not in (base, plain)
    names = set(load_weights(runs / "lora" / "weights.safetensors")[0])
    assert names
    assert all(".lora_" in name for name in names)


@pytest.mark.parametrize("precision", ["bf16-true", "bf16-mixed", "64-true"])
def test_a_run_resumes_in_its_precision(runs: Path, tmp_path: Path, precision: str) -> None:
    given = [
        *SMALL,
        *LORA,
        f"pretrained={runs / 'base'}",
        f"trainer.precision={precision}",
        f"run_dir={tmp_path / 'run'}",
    ]
    for steps in (3, 5):
        done = run("train.py", *given, f"trainer.max_steps={steps}")
        assert done.returncode == 0, done.stderr
    assert "resuming from step_00000003.ckpt" in done.stderr
    assert load(tmp_path / "run" / "checkpoints" / "last.ckpt")["global_step"] == 5


@pytest.mark.parametrize("adapter", [[], LORA], ids=["full", "lora"])
def test_training_goes_on_from_what_an_adapter_made_of_its_base(runs: Path, tmp_path: Path, adapter: list[str]) -> None:
    given = [*SMALL, *adapter, f"pretrained={runs / 'lora'}", "trainer.max_steps=1", "optimizer.lr=0"]
    done = run("train.py", *given, f"run_dir={tmp_path / 'run'}")
    assert done.returncode == 0, done.stderr
    grid(tmp_path / "new", f"run={tmp_path / 'run'}")
    before, after = (np.asarray(Image.open(file), int) for file in _grids(runs, tmp_path))
    assert np.abs(before - after).max() <= 1  # merging rounds
    base = runs / "base" / "weights.safetensors"
    kept = base.read_bytes()
    try:
        base.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
        done = run("train.py", *given, f"run_dir={tmp_path / 'other'}")
    finally:
        base.write_bytes(kept)
    assert done.returncode == 2
    assert f"pretrained={runs / 'lora'}: is an adapter whose base model is missing or has changed" in done.stderr


def _grids(runs: Path, tmp_path: Path) -> tuple[Path, Path]:
    grid(tmp_path / "old", f"run={runs / 'lora'}")
    return tmp_path / "old" / "grid.png", tmp_path / "new" / "grid.png"


def test_without_a_base_it_is_refused_before_the_first_step(tmp_path: Path) -> None:
    done = run("train.py", *SMALL, *LORA, f"run_dir={tmp_path}")
    assert done.returncode == 2
    assert "pretrained=null" in done.stderr
    assert not (tmp_path / "checkpoints").exists()


def test_a_text_encoder_that_is_not_there_is_told_before_the_first_step(runs: Path, tmp_path: Path) -> None:
    given = [f"pretrained={runs / 'base'}", "adapter.text_encoder=true"]
    done = run("train.py", *SMALL, *LORA, *given, f"run_dir={tmp_path}")
    assert done.returncode == 2
    assert "adapter.text_encoder: NoCondition has no text encoder that can be trained" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "checkpoints").exists()


def test_two_processes_train_as_one(runs: Path, tmp_path: Path) -> None:
    given = [*SMALL, *LORA, f"pretrained={runs / 'base'}", "trainer.precision=64-true"]
    for name, arguments in {"one": [], "two": ["trainer=ddp_cpu"]}.items():
        done = run("train.py", *given, *arguments, f"run_dir={tmp_path / name}")
        assert done.returncode == 0, done.stderr
    one, two = (load(tmp_path / name / "checkpoints" / "last.ckpt")["state_dict"] for name in ("one", "two"))
    assert one.keys() == two.keys()
    assert all(".lora_" in name for name in one)
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=0, atol=1e-12)
