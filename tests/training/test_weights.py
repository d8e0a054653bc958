"""Weights are loaded exactly or not at all, and need no trainer to be read."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path
from unittest.mock import ANY

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from diffusion_train.training.weights import load_exactly, load_weights, save_weights, trainable_state
from diffusion_train.training.weights_header import FORMAT, read_description

FACTS = {"config": {"name": "x"}, "shape": [3], "step": 3}


def test_sampling_needs_no_trainer() -> None:
    modules = "diffusion_train.training.weights, diffusion_train.pipeline"
    code = f"import sys, {modules}; print('pytorch_lightning' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_weights_describe_themselves(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_weights(path, {"w": torch.ones(2, 3).T}, FACTS)
    weights, description = load_weights(path)
    assert torch.equal(weights["w"], torch.ones(3, 2))
    assert description == {"format": FORMAT, **FACTS}
    assert read_description(path) == description | {"sha256": ANY}


def test_the_same_weights_make_the_same_file(tmp_path: Path) -> None:
    for number in range(8):
        save_weights(tmp_path / f"{number}.safetensors", KINDS, FACTS)
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1


def test_foreign_weights_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"not safetensors")
    with pytest.raises(ValueError, match=r"weights\.safetensors"):
        load_weights(path)


KINDS = {
    "w": torch.arange(70.0).reshape(7, 10),
    "bf16": torch.arange(9, dtype=torch.bfloat16),
    "scalar": torch.tensor(3),
    "empty": torch.zeros(0, 4),
    "flags": torch.tensor([True, False]),
}


def test_any_flipped_bit_is_found_or_harmless(tmp_path: Path) -> None:
    """Of every byte of the header, and of 100 others; fuzz/flipped_bits.py does it for real weights."""
    path = tmp_path / "weights.safetensors"
    save_weights(path, KINDS, FACTS)
    content, whole = path.read_bytes(), load_weights(path)
    rng = random.Random(0)
    header = 8 + int.from_bytes(content[:8], "little")
    outcomes = set()
    for position in [*range(header), *(rng.randrange(header, len(content)) for _ in range(100))]:
        flipped = bytearray(content)
        flipped[position] ^= 1 << rng.randrange(8)
        path.write_bytes(flipped)
        try:
            weights, description = load_weights(path)
        except ValueError as error:
            outcomes.add(str(error).split(": ")[1])
            continue
        assert description == whole[1]
        assert weights.keys() == KINDS.keys()
        assert all(torch.equal(weights[name], value) for name, value in KINDS.items())
    assert "damaged" in outcomes


def test_weights_that_another_tool_wrote_again_are_the_same(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_weights(path, KINDS, FACTS)
    with safe_open(path, "pt") as file:
        save_file({name: file.get_tensor(name) for name in reversed(file.keys())}, path, file.metadata())
    assert load_weights(path)[1]["step"] == 3


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"format": FORMAT + 98}, rf"format must be at most {FORMAT}, got {FORMAT + 98}; update diffusion_train"),
        ({"format": "1"}, "format must be at most"),
        ({"config": []}, "header.config: must be a mapping of plain data, got list"),
        ({"shape": [-1]}, r"header.shape\[0\]: must be a whole number of at least 1, got -1"),
        ({"sha257": "0"}, r"header.sha257: unknown"),
        ({"step": -1, "shape": None}, "header.shape: must be a list, got None.*header.step: must be"),
    ],
    ids=["newer", "text", "config", "shape", "unknown", "two"],
)
def test_a_description_that_no_run_writes_is_refused(tmp_path: Path, facts: dict, message: str) -> None:
    path = tmp_path / "weights.safetensors"
    save_weights(path, {"w": torch.ones(2)}, FACTS | facts)
    for read in (load_weights, read_description):
        with pytest.raises(ValueError, match=rf"(?s)weights\.safetensors: .*{message}"):
            read(path)


def test_the_file_and_the_folder_are_on_disk_before_the_name_is_there(tmp_path: Path, monkeypatch) -> None:
    """The file that safetensors makes in place of the one that it was given."""
    calls = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (calls.append(os.fstat(fd).st_ino), fsync(fd)))
    monkeypatch.setattr(os, "replace", lambda a, b: (calls.append("replace"), replace(a, b)))
    path = tmp_path / "weights.safetensors"
    save_weights(path, {"w": torch.ones(2)}, FACTS)
    assert calls == [path.stat().st_ino, "replace", tmp_path.stat().st_ino]
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask()
    assert list(tmp_path.iterdir()) == [path]


def umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


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
