"""A whole run with adapters beside frozen weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from diffusion_train.adapter.lora import LoRA
from diffusion_train.training.checkpoint.checkpoint_file import load, newest_whole
from diffusion_train.training.weights import trainable_state

RunPoints = Callable[..., tuple[Any, Any]]


def lora() -> LoRA:
    return LoRA(rank=4, targets=".*", dropout=0.2)


@pytest.mark.parametrize("precision", ["32-true", "bf16-true"])
def test_20_steps_are_7_and_13_bit_for_bit(run_points: RunPoints, tmp_path: Path, precision: str) -> None:
    whole, recorded = run_points(tmp_path / "a", 20, adapter=lora(), precision=precision)
    run_points(tmp_path / "b", 7, adapter=lora(), precision=precision)
    newest = newest_whole(tmp_path / "b" / "checkpoints")
    continued, rest = run_points(tmp_path / "b", 20, resume=newest, adapter=lora(), precision=precision)
    assert torch.equal(torch.stack(recorded.losses[7:]), torch.stack(rest.losses))
    for name, value in trainable_state(whole.network).items():
        assert torch.equal(value, trainable_state(continued.network)[name]), name
    for number in range(2):
        for name, value in whole.ema.average(number).items():
            assert torch.equal(value, continued.ema.average(number)[name]), name
    files = [(tmp_path / run / "weights.safetensors").read_bytes() for run in "ab"]
    assert files[0] == files[1]


def test_files_hold_adapters_alone_and_the_base_stays_as_it_was(run_points: RunPoints, tmp_path: Path) -> None:
    before, _ = run_points(tmp_path / "short", 1, adapter=lora())
    module, _ = run_points(tmp_path, 3, adapter=lora())
    checkpoint = load(tmp_path / "checkpoints" / "last.ckpt")
    with safe_open(tmp_path / "weights.safetensors", "pt") as file:
        names = set(file.keys())
    assert names == {name for name, p in module.network.named_parameters() if p.requires_grad}
    assert {name.removeprefix("network.") for name in checkpoint["state_dict"]} == names
    assert all(set(average) == names for average in checkpoint["ema"]["averages"])
    states = checkpoint["optimizer_states"][0]["state"]
    assert len(states) == len(names)
    frozen = {name: p for name, p in module.network.named_parameters() if not p.requires_grad}
    assert all(torch.equal(p, before.network.state_dict()[name]) for name, p in frozen.items())


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "64-true"])
def test_precisions(run_points: RunPoints, tmp_path: Path, precision: str) -> None:
    module, recorded = run_points(tmp_path, 3, adapter=lora(), precision=precision)
    wanted = torch.float64 if precision == "64-true" else torch.float32
    assert {p.dtype for p in module.network.parameters() if p.requires_grad} == {wanted}
    assert all(loss.isfinite().all() for loss in recorded.losses)
    moved = [p.any() for name, p in module.network.named_parameters() if ".lora_B." in name]
    assert all(moved)
