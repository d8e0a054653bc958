"""The commands of docs/how_to/dreambooth.md, as they stand there: tiny models, few steps."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import tiny_pipelines
from PIL import Image

from diffusion_train.training.weights import load_weights

pytestmark = pytest.mark.slow
pytest.importorskip("diffusers")
ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "how_to" / "dreambooth.md").read_text("utf-8")
BLOCKS = re.findall(r"```\n(.*?)```", PAGE, re.DOTALL)
COMMANDS = BLOCKS[0].replace("\\\n", "").strip().splitlines()
SMALL = {
    "train.py": "trainer=cpu trainer.precision=32-true logger=none data.num_workers=0 sampler.num_steps=2 "
    "callbacks.samples.num_samples=1 callbacks.samples.prompts='[a dog]' debug=record_samples",
    "sample.py": "sampler.num_steps=2",
}


def call(command: str, folder: Path) -> str:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    kept = {"DIFFUSION_TRAIN_CACHE": str(folder / "cache")}
    given = {**os.environ, **kept, "PATH": path, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["bash", "-c", command], cwd=folder, env=given, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


def shortened(command: str, base: Path) -> str:
    command = command.replace("<base>", str(base)).replace("<licence of the base>", "CC0-1.0")
    command = command.replace("num_samples=200", "num_samples=11")
    for script, settings in SMALL.items():
        if f"python {script}" in command:
            steps = "trainer.max_steps=8" if "train.py" in command and "max_steps" not in command else ""
            command = command.replace(f"python {script}", f"python {ROOT / script}") + f" {settings} {steps}"
    return command


@pytest.fixture(params=["sd15", "ours"])
def base(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    if request.param == "sd15":
        return tiny_pipelines.sd15(tmp_path / "base")
    small = "experiment=openmoji callbacks=images network.channels=[16,32,32] trainer.max_steps=1 data.batch_size=4"
    call(f"python {ROOT / 'train.py'} {small} run_dir=base {SMALL['train.py']}", tmp_path)
    return tmp_path / "base"


def test_the_commands_train_on_both_sources_in_equal_shares(base: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 256, (70, 80, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "mine" / f"photo{number}.png")
    is_sd = (base / "model_index.json").is_file()
    for command in COMMANDS:
        text = " adapter.text_encoder=true adapter.text_encoder_lr=2.0e-5" if "runs/zkx" in command and is_sd else ""
        call(shortened(command, base) + text * ("train.py" in command), tmp_path)

    (shard,) = (tmp_path / "class_shards").glob("*.tar")
    with tarfile.open(shard) as tar:
        captions = [tar.extractfile(member).read() for member in tar if member.name.endswith(".txt")]  # type: ignore[union-attr]
    assert captions == [b"a photo of a dog"] * 11
    drawn = [
        key
        for line in (tmp_path / "runs" / "zkx" / "samples_seen.jsonl").read_text().splitlines()
        for key in json.loads(line)["keys"]
    ]
    of_mine = sum("photo" in key for key in drawn)
    assert len(drawn) == 32
    assert abs(of_mine - 16) <= 2
    names = load_weights(tmp_path / "runs" / "zkx" / "weights.safetensors")[0].keys()
    assert any(name.startswith("conditioner.") for name in names) == is_sd
    assert len(list((tmp_path / "zkx").glob("*.png"))) == 5
