"""`diffusion-train encode` and training on what it wrote, as a user does: tiny models in the real layouts."""

from __future__ import annotations

import csv
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
import tiny_pipelines
from PIL import Image
from warm_process import PROGRAM, python

from diffusion_train.data.shard.writer import write_shards

pytestmark = pytest.mark.slow
pytest.importorskip("diffusers")
ROOT = Path(__file__).parents[2]
SMALL = (
    *("trainer=cpu", "trainer.log_every_n_steps=1", "logger=none", "data.batch_size=4", "data.micro_batch_size=null"),
    *("data.num_workers=1", "data.flip=true", "sampler.num_steps=2", "data.captions.trigger=logo"),
    *("callbacks.samples.num_samples=1", "callbacks.bad_samples.max_share=0.5"),
    "data.captions.templates=['a {trigger} {caption}','{caption}']",
)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve images of two shapes, one of which ends early."""
    folder = tmp_path_factory.mktemp("data")
    samples = []
    for number in range(12):
        size = (64, 128 if number % 3 else 70, 3)
        Image.fromarray(np.random.default_rng(number).integers(0, 256, size, dtype=np.uint8)).save(folder / "i.png")
        data = (folder / "i.png").read_bytes()
        samples.append({"__key__": f"k{number}", "png": data[: -999 if number == 5 else None], "txt": "a red apple"})
    return write_shards(samples, folder / "shards", "part", 100)[0]


@pytest.fixture(autouse=True)
def _private_cache(private_cache: Path) -> None:
    """Every test here."""


def call(command: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return python(PROGRAM, command, *arguments)


def losses(run_dir: Path) -> np.ndarray:
    """A row a step: its number, loss, norm of gradients, bad samples."""
    with (run_dir / "metrics.csv").open() as file:
        names = ("step", "train/loss", "train/grad_norm", "data/bad_samples")
        return np.array(
            [[float(row[name] or 0) for name in names] for row in csv.DictReader(file) if row["train/loss"]]
        )


@pytest.mark.parametrize(
    ("name", "further", "rtol"),
    [
        ("sd15", ["trainer.precision=32-true"], 1e-4),
        ("sdxl", ["trainer.precision=bf16-true", "data.buckets.max_ratio=2"], 5e-3),
    ],
    ids=["sd15", "sdxl"],
)
def test_cached_and_online_training_are_one(
    name: str, further: list[str], rtol: float, shards: Path, tmp_path: Path
) -> None:
    recipe = f"experiment={'sdxl' if name == 'sdxl' else 'sd15'}_lora"
    settings = [recipe, f"pretrained={tiny_pipelines.make(name, tmp_path / 'base')}", f"data.shards={shards}", *SMALL]
    settings += further
    out, online, cached = (tmp_path / folder for folder in ("encoded", "online", "cached"))
    done = call("encode", *settings, f"out={out}", "trainer.devices=2")
    assert done.returncode == 0, done.stderr
    assert "images          22 encoded, 0 already existed\n                 2 cannot be decoded" in done.stdout
    assert re.search(rf"train on them:\n  python train\.py .*{recipe}.* data\.encoded={out}\n", done.stdout)
    again = call("encode", *settings, f"out={out}")
    assert "images           0 encoded, 22 already existed" in again.stdout
    assert "captions         0 encoded" in again.stdout

    for folder, where in ((online, "null"), (cached, out)):
        for steps in (3, 6) if folder == cached else (6,):
            done = call("train", *settings, f"run_dir={folder}", f"trainer.max_steps={steps}", f"data.encoded={where}")
            assert done.returncode == 0, done.stderr
    # latents are encoded in other batches than those of training, for which a CPU may take other kernels
    np.testing.assert_allclose(losses(cached), losses(online), rtol=rtol)
    assert len(losses(online)) == 6
    assert (online / "bad_samples.jsonl").read_text() == (cached / "bad_samples.jsonl").read_text() != ""
    done = call("train", *settings, f"run_dir={cached}", "trainer.max_steps=7")
    assert done.returncode == 0, done.stderr  # goes on without them, for they change nothing
    assert "resuming from" in done.stderr


def test_what_cannot_be_is_told_before_the_first_step(shards: Path, tmp_path: Path) -> None:
    base = tiny_pipelines.sd15(tmp_path / "base")
    settings = ["experiment=sd15_lora", f"pretrained={base}", f"data.shards={shards}", *SMALL]
    out = tmp_path / "encoded"
    assert call("encode", *settings, f"out={out}").returncode == 0
    train = [*settings, f"run_dir={tmp_path / 'run'}", "trainer.max_steps=1"]
    cases = {
        ("train", f"data.encoded={out}", "autoencoder.dtype=bfloat16"): "images have no latents for",
        ("train", f"data.encoded={out}", "data.crop=random"): "gives too many different crops",
        ("train", f"data.encoded={tmp_path / 'absent'}"): f"data.encoded={tmp_path / 'absent'}: ",
        ("encode", f"out={out}", "data.crop=random"): "gives too many different crops",
        ("encode", f"out={out}", f"data.encoded={out}"): "is only for training",
        ("encode", f"out={out}", "encode_batch_size=0"): "at least 1",
        ("encode", f"out={out}", f"base.sha256={'0' * 64}"): "SHA-256",
        ("encode", "out=s3://bucket/encoded"): "must be a local folder",
        ("encode",): "must be given; add out=",
        ("encode", f"out={base / 'model_index.json'}"): "cannot be written to",
    }
    for (command, *changes), reason in cases.items():
        done = call(command, *(train if command == "train" else settings), *changes)
        assert done.returncode == 2, (changes, done.stderr)
        assert reason in done.stderr
        assert "Traceback" not in done.stderr
    done = call("encode", "experiment=openmoji", "autoencoder=identity", "conditioner=none", f"out={tmp_path / 'no'}")
    assert done.returncode == 2
    assert "nothing to encode: the autoencoder is the identity" in done.stderr
