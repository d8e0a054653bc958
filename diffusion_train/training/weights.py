"""What training changes of a model: chosen, held to its names and shapes, and kept in a file that says what it is.

Needs torch and safetensors alone, so that whoever samples loads no trainer.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from diffusion_train.conditioner.base import Conditioner
from diffusion_train.utils.files import atomic_file

FORMAT = 1  # of checkpoints and of weights.safetensors


def trainable_modules(network: nn.Module, conditioner: Conditioner) -> nn.Module:
    """The network, or network and conditioner where the conditioner is adapted; both hold frozen weights too."""
    return nn.ModuleDict({"network": network, "conditioner": conditioner}) if conditioner.adapted else network


def trainable_state(module: nn.Module) -> dict[str, Tensor]:
    """Parameters that require a gradient, and buffers, but for those of frozen parts."""
    parameters = dict(module.named_parameters())
    names = {name for name, parameter in parameters.items() if parameter.requires_grad}
    frozen = parameters.keys() - names
    names |= {name for name, _ in module.named_buffers() if not (frozen and _beside(name, parameters) & frozen)}
    return {name: value for name, value in module.state_dict().items() if name in names}


def _beside(buffer: str, parameters: Collection[str]) -> set[str]:
    """The parameters of the innermost module around a buffer that has any."""
    scope, neighbours = buffer, set[str]()
    while scope and not neighbours:
        scope = scope.rpartition(".")[0]
        neighbours = {name for name in parameters if name.startswith(f"{scope}." if scope else "")}
    return neighbours


def load_exactly(module: nn.Module, weights: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Copies `weights` into `module`; raises ValueError unless their names and shapes are those of `expected`."""
    check_names_and_shapes(weights, expected)
    module.load_state_dict(weights, strict=False)


def check_names_and_shapes(weights: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Raises ValueError unless the names and shapes of `weights` are those of `expected`."""
    problems = [f"missing: {name}" for name in expected if name not in weights]
    problems += [f"unknown: {name}" for name in weights if name not in expected]
    problems += [
        f"shape of {name}: {tuple(weights[name].shape)} in the file, {tuple(value.shape)} in the network"
        for name, value in expected.items()
        if name in weights and weights[name].shape != value.shape
    ]
    if problems:
        listed = "\n  ".join(problems[:20]) + (f"\n  and {len(problems) - 20} more" if len(problems) > 20 else "")
        raise ValueError(f"the saved weights are not those of this network:\n  {listed}")


def checkpoint_weights(checkpoint: Mapping[str, Any], averaged: bool = False) -> dict[str, Tensor]:
    """The weights of a checkpoint by their names in `trainable_modules`; `averaged`: with those of the first average."""
    average, weights = checkpoint["ema"]["averages"][0], checkpoint["state_dict"]
    prefix = "" if average.keys() <= weights.keys() else "network."
    named: dict[str, Tensor] = {name.removeprefix(prefix): value for name, value in weights.items()}
    return named | average if averaged else named


def save_weights(path: Path, weights: Mapping[str, Tensor], description: Mapping[str, Any]) -> None:
    """A safetensors file that describes itself: its header holds `description` (plain data)."""
    tensors = {name: value.detach().cpu().contiguous() for name, value in weights.items()}
    header = {"diffusion_train": json.dumps({"format": FORMAT, **description})}
    with atomic_tensor_file(path) as file:
        save_file(tensors, file.name, header)


def load_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """-> weights and description. Raises ValueError if the file is not one of ours."""
    try:
        with safe_open(path, "pt") as file:
            header = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except Exception as error:
        raise ValueError(f"{path}: not a readable safetensors file ({error})") from error
    if "diffusion_train" not in header:
        raise ValueError(f"{path}: has no description of a diffusion_train run in its header")
    return weights, json.loads(header["diffusion_train"])


@contextmanager
def atomic_tensor_file(path: Path) -> Iterator[BinaryIO]:
    """An atomic file that torch or safetensors writes: a full or broken disk is an OSError that names `path`."""
    try:
        with atomic_file(path) as file:
            yield file
    except (OSError, RuntimeError, SafetensorError) as error:
        if (number := _errno(error)) is None:
            raise
        raise OSError(number, os.strerror(number), str(path)) from error


def _errno(error: BaseException | None) -> int | None:
    """torch raises an error of its own from the system's, safetensors one whose text has the number."""
    while error is not None:
        if isinstance(error, OSError) and error.errno:
            return error.errno
        if match := re.search(r"os error (\d+)", str(error)):
            return int(match[1])
        error = error.__cause__ or error.__context__
    return None
