"""The state in a checkpoint is compared with the run that resumes from it, before any of it is loaded."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from diffusion_train.adapter.lora import LoRA
from diffusion_train.training.checkpoint.checkpoint_file import load
from diffusion_train.training.checkpoint.fitting_state import check_state


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Any]:
    """The checkpoint of a run, and its module."""
    from points_runs import points_run

    folder: Path = tmp_path_factory.mktemp("run")
    module, _ = points_run(folder, 2)
    return load(folder / "checkpoints" / "last.ckpt"), module


def replaced(checkpoint: dict[str, Any], part: str, name: Any, value: Any) -> dict[str, Any]:
    other = copy.deepcopy(checkpoint)
    node = {
        "weights": other["state_dict"],
        "average": other["ema"]["averages"][1],
        "optimizer": other["optimizer_states"][0]["state"][0],
        "groups": other["optimizer_states"][0]["param_groups"][0],
        "class": other,
    }[part]
    if value is None:
        del node[name]
    else:
        node[name] = value(node[name])
    return other


WRONG = {
    "shape of a weight": ("weights", "network.stem.bias", lambda w: w[:3], r"shape of stem.bias: \(3,\) in the file"),
    "missing weight": ("weights", "network.stem.bias", None, "missing: stem.bias"),
    "whole numbers": ("weights", "network.stem.bias", torch.Tensor.long, "type of stem.bias: torch.int64 in the file"),
    "float64": ("weights", "network.stem.bias", torch.Tensor.double, "type of stem.bias: must be torch.float32, got"),
    "float16": ("weights", "network.stem.bias", torch.Tensor.half, "type of stem.bias: must be torch.float32, got"),
    "average": ("average", "stem.bias", lambda w: w[:3], r"ema 0.9: shape of stem.bias: \(3,\) in the file"),
    "missing average": ("average", "stem.bias", None, "ema 0.9: missing: stem.bias"),
    "moment": ("optimizer", "exp_avg", lambda m: m[:1], r"exp_avg of parameter 0: must be of shape \(16, 256\)"),
    "text for a moment": ("optimizer", "exp_avg", lambda m: "x", "exp_avg of parameter 0: must be of shape"),
    "missing moment": ("optimizer", "exp_avg_sq", None, "optimizer: missing: exp_avg_sq of parameter 0"),
    "groups": ("groups", "params", lambda numbers: numbers[:-1], "the parameter groups must have"),
}


@pytest.mark.parametrize(("part", "name", "value", "message"), WRONG.values(), ids=WRONG)
def test_what_does_not_fit_is_named(saved, part: str, name: str, value: Any, message: str) -> None:
    checkpoint, module = saved
    with pytest.raises(ValueError, match=message):
        check_state(replaced(checkpoint, part, name, value), module, "32-true")


def test_a_runs_own_state_fits(saved) -> None:
    check_state(*saved, "32-true")


def test_another_precision_converts_weights(saved) -> None:
    checkpoint, module = saved
    check_state(checkpoint, module, "64-true")
    other = copy.deepcopy(checkpoint)
    other["diffusion_train"]["identity"]["trainer.precision"] = "64-true"
    with pytest.raises(ValueError, match=r"must be torch.float64, got torch.float32"):
        check_state(other, module, "64-true")


@pytest.mark.parametrize("precision", ["32-true", "bf16-true", "64-true", "bf16-mixed"])
def test_what_a_run_saves_fits_the_same_run(tmp_path: Path, run_points, precision: str) -> None:
    adapter = LoRA(rank=4, targets=".*")
    run_points(tmp_path, 2, precision=precision, adapter=adapter)
    module, _ = run_points(tmp_path / "fresh", 0, adapter=adapter)
    check_state(load(tmp_path / "checkpoints" / "last.ckpt"), module, precision)


def test_the_state_of_another_optimizer_is_not_compared(saved) -> None:
    checkpoint, module = saved
    other = replaced(checkpoint, "class", "optimizer_class", lambda _: "Adafactor")
    del other["optimizer_states"][0]["state"][0]["exp_avg"]
    check_state(other, module, "32-true")
