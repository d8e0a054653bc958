"""Weights are loaded exactly or not at all, and need no trainer to be read."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from diffusion_train.training.weights import FORMAT, load_exactly, load_weights, save_weights, trainable_state


def test_sampling_needs_no_trainer() -> None:
    modules = "diffusion_train.training.weights, diffusion_train.pipeline"
    code = f"import sys, {modules}; print('pytorch_lightning' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_weights_describe_themselves(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_weights(path, {"w": torch.ones(2, 3).T}, {"config": {"name": "x"}, "step": 3})
    weights, description = load_weights(path)
    assert torch.equal(weights["w"], torch.ones(3, 2))
    assert description == {"format": FORMAT, "config": {"name": "x"}, "step": 3}


def test_foreign_weights_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"not safetensors")
    with pytest.raises(ValueError, match=r"weights\.safetensors"):
        load_weights(path)


def test_other_weights_are_refused_with_a_list() -> None:
    network = nn.Linear(2, 3)
    before = network.weight.clone()
    weights = {"weight": torch.zeros(3, 2), "extra": torch.zeros(3)}
    with pytest.raises(ValueError, match=r"missing: bias\n.*unknown: extra"):
        load_exactly(network, weights, trainable_state(network))
    with pytest.raises(ValueError, match=r"shape of weight: \(2, 3\) in the file, \(3, 2\) in the network"):
        load_exactly(network, {"weight": torch.zeros(2, 3), "bias": torch.zeros(3)}, trainable_state(network))
    assert torch.equal(network.weight, before)


def test_buffers_of_frozen_parts_are_not_saved() -> None:
    frozen, trained = nn.BatchNorm1d(2).requires_grad_(False), nn.BatchNorm1d(2)
    names = trainable_state(nn.Sequential(frozen, trained)).keys()
    assert names == {f"1.{name}" for name in trained.state_dict()}
