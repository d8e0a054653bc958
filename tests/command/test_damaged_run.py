"""Whatever reads a run whose weights or checkpoints are damaged, newer or not its own refuses them by name, with 2."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from warm_process import python

from diffusion_train.command.cli import launch
from diffusion_train.training.checkpoint.checkpoint_file import AtomicCheckpointIO, load
from diffusion_train.training.weights import load_weights

pytestmark = pytest.mark.slow
SMALL = [
    *(
        "experiment=points",
        "logger=none",
        "trainer=cpu",
        "trainer.max_steps=4",
        "callbacks.checkpointing.every_n_steps=2",
    ),
    *("data.batch_size=24", "data.num_samples=100", "data.holdout=4", "network.width=16", "network.depth=1"),
    *("callbacks.samples.num_samples=8", "sampler.num_steps=2"),
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "run"
    done = python("train.py", *SMALL, f"run_dir={folder}")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run", symlinks=True))


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-2000] ^= 4
    file.write_bytes(content)


def make_newer(file: Path) -> None:
    weights, description = load_weights(file)
    save_file(weights, file, {"diffusion_train": json.dumps(description | {"format": 99})})


@pytest.mark.parametrize(
    ("harm", "message"),
    [(flip, "damaged: its SHA-256 differs"), (make_newer, "format must be at most 1, got 99; update diffusion_train")],
    ids=["flipped", "newer"],
)
@pytest.mark.parametrize("reader", ["sample", "report", "export", "train"])
def test_weights_are_refused_by_whatever_reads_them(
    run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    reader: str,
    harm: Callable[[Path], None],
    message: str,
) -> None:
    harm(run / "weights.safetensors")
    words = {
        "sample": [f"run={run}", f"out={tmp_path / 'out'}"],
        "report": [f"run={run}"],
        "export": [f"run={run}", "format=diffusers", f"out={tmp_path / 'out'}"],
        "train": [*SMALL, f"pretrained={run}", f"run_dir={tmp_path / 'new'}"],
    }
    assert launch(reader, words[reader]) == 2
    text = capsys.readouterr().err
    assert message in text
    assert "weights.safetensors" in text


def remove(*names: str) -> Callable[[dict[str, Any]], None]:
    return lambda checkpoint: [checkpoint.pop(name) for name in names] and None


def first_weight(change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[dict[str, Any]], None]:
    def edit(checkpoint: dict[str, Any]) -> None:
        name = next(iter(checkpoint["state_dict"]))
        checkpoint["state_dict"][name] = change(checkpoint["state_dict"][name])

    return edit


STATES: dict[str, tuple[Callable[[dict[str, Any]], None], list[str]]] = {
    "parts missing": (
        remove("ema", "loops", "lr_schedulers"),
        ["ema: missing", "loops: missing", "lr_schedulers: mis"],
    ),
    "a foreign config": (
        lambda checkpoint: checkpoint["diffusion_train"].update(config={"model": {}}),
        ["diffusion_train.config.network: missing"],
    ),
    "identity missing": (
        lambda checkpoint: checkpoint["diffusion_train"]["identity"].pop("data.batch_size") and None,
        ["data.batch_size: None in the checkpoint, 24 now"],
    ),
    "float64": (first_weight(torch.Tensor.double), ["must be torch.float32, got torch.float64"]),
    "another shape": (first_weight(lambda w: w[:1]), ["must be the average of a weight in state_dict, of its shape"]),
    "newer": (lambda checkpoint: checkpoint["diffusion_train"].update(format=99), ["format must be at most 1, got 99"]),
}


@pytest.mark.parametrize(("edit", "messages"), STATES.values(), ids=STATES)
def test_a_state_that_is_not_a_runs_is_refused_with_its_names(
    run: Path, capsys: pytest.CaptureFixture[str], edit: Callable[[dict[str, Any]], None], messages: list[str]
) -> None:
    path = run / "checkpoints" / "step_00000004.ckpt"
    checkpoint = load(path)
    edit(checkpoint)
    AtomicCheckpointIO().save_checkpoint(checkpoint, path)
    assert launch("train", [*SMALL, f"run_dir={run}"]) == 2
    text = capsys.readouterr().err
    assert all(message in text for message in messages), text


def test_a_damaged_checkpoint_is_left_out_with_a_warning_and_no_link_is_needed(run: Path) -> None:
    flip(run / "checkpoints" / "step_00000004.ckpt")
    (run / "checkpoints" / "last.ckpt").unlink()
    done = python("train.py", *SMALL, f"run_dir={run}")
    assert done.returncode == 0, done.stderr
    assert "step_00000004.ckpt: damaged: its SHA-256 differs" in done.stderr
    assert "resuming from step_00000002.ckpt" in done.stderr
