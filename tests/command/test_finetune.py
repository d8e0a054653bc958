"""Training on pretrained models and sampling from it, as a user does: tiny models in the real layouts."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import tiny_pipelines
import torch
import yaml
from PIL import Image
from warm_process import python

from diffusion_train.data.shard.writer import write_shards
from diffusion_train.training.weights import load_weights
from diffusion_train.utils.rng import Rng

pytestmark = pytest.mark.slow
diffusers = pytest.importorskip("diffusers")
ROOT = Path(__file__).parents[2]
SMALL = (
    *("trainer=cpu", "trainer.precision=32-true", "trainer.log_every_n_steps=1", "logger=none"),
    *("data.batch_size=4", "data.micro_batch_size=null", "data.num_workers=0", "sampler.num_steps=4"),
    *("callbacks.samples.num_samples=1", "debug=record_samples"),
)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    samples = []
    for number in range(12):
        file = folder / "image.png"
        pixels = np.random.default_rng(number).integers(0, 256, (70, 80, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(file)
        samples.append({"__key__": f"k{number:05d}", "png": file.read_bytes(), "txt": "a red apple"})
    return write_shards(samples, folder / "shards", "part", 100)[0]


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DIFFUSION_TRAIN_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def call(*arguments: object) -> subprocess.CompletedProcess[str]:
    return python(*arguments)


def train(run_dir: Path, shards: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return call("train.py", "experiment=sd15_full", f"run_dir={run_dir}", f"data.shards={shards}", *SMALL, *arguments)


def sample(run: Path, out: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return call("sample.py", f"run={run}", f"out={out}", 'prompts=["a red apple"]', *arguments)


def pixels(out: Path) -> np.ndarray:
    return np.asarray(Image.open(out / "0000_000.png")).astype(int)


@pytest.mark.parametrize("name", ["sd15", "sd2_zero_snr"])
def test_untouched_weights_draw_diffusers_image(name: str, shards: Path, tmp_path: Path) -> None:
    """Training at a rate of 0 changes nothing: data, parts, run folder and sampling lose nothing on the way."""
    folder = tiny_pipelines.make(name, tmp_path / "base")
    run = tmp_path / "run"
    done = train(run, shards, f"pretrained={folder}", "trainer.max_steps=1", "optimizer.lr=0")
    assert done.returncode == 0, done.stderr
    done = sample(run, tmp_path / "out", "guidance.scale=3", "sampler.num_steps=10")
    assert done.returncode == 0, done.stderr
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(folder)
    # of PNDM, which has no equal here, DDIM takes over the spacing and the last step
    pipeline.scheduler = diffusers.DDIMScheduler.from_config(pipeline.scheduler.config)
    noise = Rng.for_samples([0]).normal("noise", (4, 8, 8))
    drawn = pipeline(
        "a red apple", latents=noise, num_inference_steps=10, guidance_scale=3.0, height=64, width=64, output_type="pt"
    ).images[0]
    expected = (drawn * 255).round().permute(1, 2, 0).numpy()
    assert np.abs(pixels(tmp_path / "out") - expected).max() <= 1


def test_a_folder_is_trained_on_resumed_moved_and_protected(shards: Path, tmp_path: Path) -> None:
    folder, run = tiny_pipelines.sd15(tmp_path / "base"), tmp_path / "run"
    for steps in (2, 3):
        done = train(run, shards, f"pretrained={folder}", f"trainer.max_steps={steps}", "optimizer.lr=1e-2")
        assert done.returncode == 0, done.stderr
    assert "resuming from step_00000002.ckpt" in done.stderr
    before = diffusers.UNet2DConditionModel.from_pretrained(folder / "unet").state_dict()
    weights, description = load_weights(run / "weights.safetensors")
    assert {name.removeprefix("unet.") for name in weights} == before.keys()
    base = yaml.safe_load((run / "config.yaml").read_text())["base_record"]
    assert (base["kind"], base["folder"], len(base["sha256"])) == ("sd", str(folder), 64)
    assert description["config"]["base_record"] == base
    assert sample(run, tmp_path / "one").returncode == 0

    moved = folder.rename(tmp_path / "elsewhere")
    lost = sample(run, tmp_path / "two")
    assert lost.returncode == 2
    assert "if it has moved, add pretrained=<where it is now>" in lost.stderr
    assert sample(run, tmp_path / "two", f"pretrained={moved}").returncode == 0
    assert (pixels(tmp_path / "one") == pixels(tmp_path / "two")).all()
    done = train(run, shards, f"pretrained={moved}", "trainer.max_steps=4", "optimizer.lr=1e-2")
    assert done.returncode == 0, done.stderr  # the same weights, wherever they are

    other = tiny_pipelines.sd2_v(tmp_path / "other")
    refused = train(run, shards, f"pretrained={other}", "trainer.max_steps=5")
    assert refused.returncode == 2
    assert "began with another model" in refused.stderr
    refused = sample(run, tmp_path / "three", f"pretrained={other}")
    assert refused.returncode == 2
    assert "the SHA-256 of the weights must be" in refused.stderr


def test_a_run_of_ours_is_trained_on(shards: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    arguments = ["experiment=openmoji", "callbacks=images", "network.channels=[16,32,32]", "trainer.max_steps=1"]
    done = call("train.py", *arguments, f"run_dir={first}", *SMALL[:7], "sampler.num_steps=4")
    assert done.returncode == 0, done.stderr
    done = train(second, shards, f"pretrained={first}", "trainer.max_steps=1", "optimizer.lr=0")
    assert done.returncode == 0, done.stderr
    (before, _), (after, facts) = (load_weights(run / "weights.safetensors") for run in (first, second))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert facts["shape"] == [3, 32, 32]
    for run, out in ((first, "one"), (second, "two")):
        assert sample(run, tmp_path / out).returncode == 0
    assert (pixels(tmp_path / "one") == pixels(tmp_path / "two")).all()
    shutil.rmtree(first)
    assert sample(second, tmp_path / "three").returncode == 0  # its own weights are all that it needs
