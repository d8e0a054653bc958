"""A LoRA from training to other tools, as a user does it: a tiny model in the real layout."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tiny_pipelines
import torch
from PIL import Image
from safetensors.torch import load_file
from warm_process import PROGRAM, python

from diffusion_train import config
from diffusion_train.data.shard.writer import write_shards
from diffusion_train.report.models import Models
from diffusion_train.training.weights import load_weights

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
SMALL = (
    *("trainer=cpu", "trainer.precision=32-true", "logger=none", "data.num_workers=0", "data.batch_size=2"),
    *("callbacks.samples.num_samples=1", "sampler.num_steps=2", "callbacks.samples.prompts=[red apple]"),
)


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    file = tmp_path / "image.png"
    samples = []
    for number in range(4):
        pixels = np.random.default_rng(number).integers(0, 256, (70, 80, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(file)
        samples.append({"__key__": f"k{number:05d}", "png": file.read_bytes(), "txt": "a red apple"})
    return write_shards(samples, tmp_path / "shards", "part", 100)[0]


@pytest.fixture
def call(tmp_path: Path) -> Callable[..., str]:
    def call(*arguments: object) -> str:
        done = python(*arguments, env={**os.environ, "DIFFUSION_TRAIN_CACHE": str(tmp_path / "cache")})
        assert done.returncode == 0, done.stderr
        return done.stdout

    return call


@pytest.mark.parametrize("text_encoder", ["false", "true"])
@pytest.mark.parametrize(("recipe", "base"), [("sd15_lora", "sd15"), ("sdxl_lora", "sdxl")])
def test_trained_gone_on_with_sampled_and_exported(
    recipe: str, base: str, text_encoder: str, shards: Path, tmp_path: Path, call: Callable[..., str]
) -> None:
    folder, run = tiny_pipelines.make(base, tmp_path / "base"), tmp_path / "run"
    train = ["train.py", f"experiment={recipe}", f"pretrained={folder}", f"data.shards={shards}", *SMALL]
    train += [f"adapter.text_encoder={text_encoder}", "optimizer.lr=1e-3", "lr_schedule.warmup_steps=0"]
    call(*train, f"run_dir={run}", "trainer.max_steps=1")
    call(*train, f"run_dir={run}", "trainer.max_steps=3")
    call(*train, f"run_dir={tmp_path / 'whole'}", "trainer.max_steps=3")
    weights, whole = (load_file(folder / "weights.safetensors") for folder in (run, tmp_path / "whole"))
    assert weights.keys() == whole.keys()
    assert all(".lora_" in name and torch.equal(value, whole[name]) for name, value in weights.items())
    parts = {name.split(".")[0] for name in weights}
    assert parts == ({"network", "conditioner"} if text_encoder == "true" else {"unet"})
    if text_encoder == "true":
        assert_a_report_compares_text_encoders(run)
    out = tmp_path / "brand"
    printed = call(PROGRAM, "export", f"run={run}", "format=lora_kohya", f"out={out}", "proof.num_steps=2")
    assert "largest difference from diffusers" in printed
    assert (out / f"{recipe}.safetensors").is_file()
    call("sample.py", f"run={run}", f"out={tmp_path / 'images'}", "prompts=[red apple]", "adapter.scale=0.5")


def assert_a_report_compares_text_encoders(run: Path) -> None:
    models = Models(run, config.from_container(load_weights(run / "weights.safetensors")[1]["config"]), "cpu")
    batch = {"caption": ["red apple"], "target_size": torch.tensor([[64, 64]])}
    rows = [*models.scale_rows([0, 1]), *models.step_rows()]
    text = {row.name: row.pipeline().conditioner(batch)["text"] for row in rows}
    base = models.base()
    assert base is not None
    # a frozen encoder embeds 8 rows at once, one with an adapter as many as there are captions
    torch.testing.assert_close(text["scale 0"], base.conditioner(batch)["text"], rtol=1e-5, atol=1e-5)
    assert torch.equal(text["scale 1"], text["step 3"])
    assert not torch.equal(text["scale 1"], text["scale 0"])
    assert not torch.equal(text["step 1"], text["step 3"])


def test_two_processes_train_text_encoders_as_one(shards: Path, tmp_path: Path, call: Callable[..., str]) -> None:
    """Gradients of both reach every rank, and none is waited for in vain: XL's first encoder is read before its end."""
    train = ["train.py", "experiment=sdxl_lora", f"pretrained={tiny_pipelines.sdxl(tmp_path / 'base')}", *SMALL]
    train += [f"data.shards={shards}", "data.micro_batch_size=null", "adapter.text_encoder=true", "optimizer.lr=1e-3"]
    train += ["lr_schedule.warmup_steps=0", "trainer.max_steps=3", "condition_dropout=0.5"]
    for name, arguments in {"one": [], "two": ["trainer=ddp_cpu"]}.items():
        call(*train, *arguments, f"run_dir={tmp_path / name}")
    one, two = (load_file(tmp_path / name / "weights.safetensors") for name in ("one", "two"))
    assert one.keys() == two.keys()
    for name, value in one.items():
        assert (two[name] - value).norm() < 0.01 * value.norm(), name  # Adam makes much of rounding
