"""Training on one's own images, as somebody types it who has nothing but a folder of them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import yaml
from warm_process import python

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("private_cache")]
ROOT = Path(__file__).parents[2]
SMALL = ["network.channels=[32,32]", "network.num_blocks=[1,1]", "network.attention=[false,false]", "logger=none"]
SMALL += ["sampler.num_steps=2", "data.num_workers=0", "trainer=cpu"]


@pytest.fixture
def photos(tmp_path: Path, make_png) -> Path:
    folder = tmp_path / "my photos"
    folder.mkdir()
    for number in range(5):
        (folder / f"{number}.png").write_bytes(make_png(number, 30, 26))
    return folder


def train(*arguments: str) -> subprocess.CompletedProcess[str]:
    return python("train.py", *SMALL, *arguments)


def test_a_folder_is_trained_on_and_the_same_command_resumes(photos: Path, make_png, tmp_path: Path) -> None:
    arguments = [f"data.folder='{photos}'", f"run_dir={tmp_path / 'run'}"]
    done = train(*arguments, "trainer.max_steps=2")
    assert done.returncode == 0, done.stderr
    assert "5 images, 0 of them with a caption" in done.stderr
    assert "own_images: 5 images; chose data.image_size=24, data.batch_size=4; they have no captions" in done.stderr
    done = train(*arguments, "trainer.max_steps=3")
    assert done.returncode == 0, done.stderr
    assert "resuming from step_00000002.ckpt" in done.stderr
    assert "preparing" not in done.stderr
    data = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["data"]
    assert (data["image_size"], data["batch_size"]) == (24, 4)

    (photos / "more.png").write_bytes(make_png(6, 90, 90))  # other data, which a run does not go on with by itself
    done = train(*arguments, "trainer.max_steps=4")
    assert done.returncode == 2
    assert "data.batch_size" not in done.stderr
    assert "the run cannot resume exactly from its checkpoint:\n  data:" in done.stderr


def test_the_processes_of_a_run_prepare_once_and_agree(photos: Path, tmp_path: Path) -> None:
    done = train(f"data.folder='{photos}'", f"run_dir={tmp_path / 'run'}", "trainer.max_steps=1", "trainer=ddp_cpu")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("preparing its images") == 1
    assert done.stderr.count("5 images; chose") == 1
