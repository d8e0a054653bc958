"""The trained weights of a model: selects them, checks their names and shapes, and saves and loads them.

This module only needs torch and safetensors, so that sampling does not load the trainer.
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
    """Return the network, or network and conditioner if the conditioner is adapted; both may hold frozen weights."""
    return nn.ModuleDict({"network": network, "conditioner": conditioner}) if conditioner.adapted else network


def trainable_state(module: nn.Module) -> dict[str, Tensor]:
    """Return the parameters that require a gradient, and the buffers except those of frozen parts, by name."""
    parameters = dict(module.named_parameters())
    names = {name for name, parameter in parameters.items() if parameter.requires_grad}
    frozen = parameters.keys() - names
    names |= {name for name, _ in module.named_buffers() if not (frozen and _beside(name, parameters) & frozen)}
    return {name: value for name, value in module.state_dict().items() if name in names}


def _beside(buffer: str, parameters: Collection[str]) -> set[str]:
    """Return the parameters of the innermost module that contains the buffer and has any."""
    scope, neighbours = buffer, set[str]()
    while scope and not neighbours:
        scope = scope.rpartition(".")[0]
        neighbours = {name for name in parameters if name.startswith(f"{scope}." if scope else "")}
    return neighbours


def load_exactly(module: nn.Module, weights: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Copy `weights` into `module`. Raises ValueError unless names and shapes are those of `expected`."""
    check_names_and_shapes(weights, expected)
    module.load_state_dict(weights, strict=False)


def check_names_and_shapes(weights: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Raise ValueError unless the names and shapes of `weights` are those of `expected`."""
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
    """Return the weights of a checkpoint by name in `trainable_modules`; with `averaged`, those of the first EMA."""
    average, weights = checkpoint["ema"]["averages"][0], checkpoint["state_dict"]
    prefix = "" if average.keys() <= weights.keys() else "network."
    named: dict[str, Tensor] = {name.removeprefix(prefix): value for name, value in weights.items()}
    return named | average if averaged else named


def save_weights(path: Path, weights: Mapping[str, Tensor], description: Mapping[str, Any]) -> None:
    """Write a safetensors file whose header holds `description`, which must be plain data."""
    tensors = {name: value.detach().cpu().contiguous() for name, value in weights.items()}
    header = {"diffusion_train": json.dumps({"format": FORMAT, **description})}
    with atomic_tensor_file(path) as file:
        save_file(tensors, file.name, header)


def load_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return weights and description. Raises ValueError if the file cannot be read or has no description."""
    try:
        with safe_open(path, "pt") as file:
            header = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except Exception as error:
        raise ValueError(f"{path}: not a readable safetensors file ({error})") from error
    if "diffusion_train" not in header:
        raise ValueError(f"{path}: the header must describe a diffusion_train run, but does not")
    return weights, json.loads(header["diffusion_train"])


@contextmanager
def atomic_tensor_file(path: Path) -> Iterator[BinaryIO]:
    """Open an atomic file for torch or safetensors; disk errors of both are raised as OSError that names `path`."""
    try:
        with atomic_file(path) as file:
            yield file
    except (OSError, RuntimeError, SafetensorError) as error:
        if (number := _errno(error)) is None:
            raise
        raise OSError(number, os.strerror(number), str(path)) from error


def _errno(error: BaseException | None) -> int | None:
    """Return the errno of an error; torch wraps the system's error, safetensors writes the number in its text."""
    while error is not None:
        if isinstance(error, OSError) and error.errno:
            return error.errno
        if match := re.search(r"os error (\d+)", str(error)):
            return int(match[1])
        error = error.__cause__ or error.__context__
    return None
