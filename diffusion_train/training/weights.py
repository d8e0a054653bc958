"""The trained weights of a model: selects them, checks their names and shapes, and saves and loads them.

This module only needs torch and safetensors, so that sampling does not load the trainer.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from diffusion_train.conditioner.base import Conditioner
from diffusion_train.training.weights_header import DESCRIPTION, FORMAT, description_in, not_readable
from diffusion_train.utils.files import publish, temporary_folder
from diffusion_train.utils.text import indented


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
    """Raise ValueError with all `misfits` of `weights`."""
    if problems := misfits(weights, expected):
        raise ValueError(f"the saved weights are not those of this network:{indented(problems)}")


def misfits(weights: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> list[str]:
    """Return a line for each name, shape and kind of number in `weights` that differs from `expected`."""
    problems = [f"missing: {name}" for name in expected if name not in weights]
    problems += [f"unknown: {name}" for name in weights if name not in expected]
    for name, value in expected.items():
        saved = weights.get(name, value)
        if saved.shape != value.shape:
            problems.append(f"shape of {name}: {tuple(saved.shape)} in the file, {tuple(value.shape)} in the network")
        if saved.is_floating_point() != value.is_floating_point():
            problems.append(f"type of {name}: {saved.dtype} in the file, {value.dtype} in the network")
    return problems


def checkpoint_weights(checkpoint: Mapping[str, Any], averaged: bool = False) -> dict[str, Tensor]:
    """Return the weights of a checkpoint by name in `trainable_modules`; with `averaged`, those of the first EMA."""
    average, weights = checkpoint["ema"]["averages"][0], checkpoint["state_dict"]
    prefix = "" if average.keys() <= weights.keys() else "network."
    named: dict[str, Tensor] = {name.removeprefix(prefix): value for name, value in weights.items()}
    return named | average if averaged else named


def save_weights(path: Path, weights: Mapping[str, Tensor], description: Mapping[str, Any]) -> None:
    """Write a safetensors file whose header holds `description`, which must be plain data, and a SHA-256 of it all.

    The file is complete and on disk before it has the name `path`. Disk errors are raised as OSError that names `path`.
    """
    tensors = {name: value.detach().cpu().contiguous() for name, value in weights.items()}
    facts = {"format": FORMAT, **description}
    facts["sha256"] = _digest(tensors, facts)
    metadata = {DESCRIPTION: json.dumps(facts)}  # a single entry, for safetensors writes several in any order
    with disk_errors(path), temporary_folder(path.parent) as folder:
        save_file(tensors, folder / path.name, metadata)
        publish(folder / path.name, path)


def load_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return weights and description.

    Raises ValueError if the file cannot be read, does not have the SHA-256 that is recorded in it, or has a description
    that `read_description` refuses. Files of early versions record no hash.
    """
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except Exception as error:
        raise not_readable(path, error) from error
    description = description_in(path, metadata)  # first, for another format may have another hash
    recorded = description.pop("sha256", None)
    if recorded not in (None, _digest(weights, description)):
        raise ValueError(
            f"{path}: damaged: its SHA-256 differs from the one in its header; give an undamaged copy of it"
        )
    return weights, description


def _digest(weights: Mapping[str, Tensor], description: Mapping[str, Any]) -> str:
    """Return a SHA-256 of description, names, types, shapes and values, all that is loaded from a file."""
    total = hashlib.sha256(json.dumps(description, sort_keys=True).encode())
    for name, value in sorted(weights.items()):
        total.update(json.dumps([name, str(value.dtype), list(value.shape)]).encode())
        total.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Raise disk errors of torch and safetensors in the block as OSError that names `path`."""
    try:
        yield
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
