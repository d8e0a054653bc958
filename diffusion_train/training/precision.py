"""Precision: resolves `trainer.precision=auto` on this hardware, and stores frozen weights in half precision.

Trained weights stay in float32 or more. A weight of bfloat16 has 8 significant bits, so a step that changes it by less
than 1/512 is rounded away.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from pytorch_lightning.plugins import HalfPrecision
from torch import nn

AUTO = "auto"
_LONG = {"bf16": "bf16-mixed", "16": "16-mixed", "32": "32-true", "64": "64-true"}  # Lightning's names
_MULTIPLIED_IN = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


def resolve(precision: str, accelerator: str) -> str:
    """Return Lightning's name of a precision; for "auto", bfloat16 autocast if the hardware supports it, else float32.

    On a CPU that supports it, "auto" stays: which is faster depends on the network, and is measured (`choices`). "auto"
    never chooses float16, which overflows in some networks and autoencoders.
    """
    if precision != AUTO:
        return _LONG.get(precision, precision)
    if not _multiplies_bfloat16(accelerator):
        return "32-true"
    return "bf16-mixed" if accelerator != "cpu" and torch.cuda.is_available() else AUTO


def autocast(precision: str, device: str) -> AbstractContextManager[Any]:
    """Return the context in which a mixed precision multiplies; it does nothing for others."""
    dtype = _MULTIPLIED_IN.get(precision)
    return torch.autocast(device, dtype) if dtype else nullcontext()


def check_trained(network: nn.Module, precision: str) -> None:
    """Raise ValueError if training in this precision would lose most of each step."""
    if precision == "16-true":
        raise ValueError(
            "trainer.precision=16-true: gradients below 6e-8 would be 0 without the scaling of 16-mixed; use 16-mixed"
        )
    if precision == "bf16-true" and all(parameter.requires_grad for parameter in network.parameters()):
        raise ValueError(
            "trainer.precision=bf16-true: all weights are trained, and bfloat16 rounds small steps away; "
            "use bf16-mixed, or adapter=lora, whose weights stay in float32"
        )


def check_device(precision: str, device: str) -> None:
    """Raise ValueError if autocast on this type of device lacks operations in this precision."""
    if device == "cpu" and _LONG.get(precision, precision) == "16-mixed":
        raise ValueError(
            "trainer.precision=16-mixed: on a CPU, torch cannot join tensors of float16 and float32; use bf16-mixed"
        )


def trainer_arguments(precision: str) -> dict[str, Any]:
    """Return the arguments of Lightning's Trainer for a precision."""
    if precision != "bf16-true":
        return {"precision": precision, "plugins": []}
    return {"precision": None, "plugins": [FrozenInBFloat16("bf16-true")]}


class FrozenInBFloat16(HalfPrecision):
    """Runs the network in bfloat16. Weights that are trained, which must be those of adapters, stay in float32."""

    def convert_module(self, module: nn.Module) -> nn.Module:
        trained = [(parameter, parameter.data) for parameter in module.parameters() if parameter.requires_grad]
        super().convert_module(module)
        for parameter, weight in trained:
            parameter.data = weight.float()
        return module


def shorten_frozen(network: nn.Module, precision: str) -> None:
    """Store frozen weights in the precision that autocast multiplies them in, which changes no result.

    Autocast would otherwise copy each weight in every forward pass and keep the copy for the backward pass.
    """
    shorter = _MULTIPLIED_IN.get(precision)
    for layer in network.modules() if shorter else ():
        multiplied = isinstance(layer, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d))
        for parameter in layer.parameters(recurse=False):
            if not parameter.requires_grad:
                dtype = shorter if multiplied else parameter.dtype
                # always copy: weights read from a file share one block of memory, which any one of them keeps alive
                parameter.data = parameter.data.to(dtype, copy=True)


@contextmanager
def shortened_frozen(network: nn.Module, precision: str) -> Iterator[None]:
    """Store frozen weights in half precision inside the block, as `shorten_frozen` does, and as they were after it."""
    before = [(parameter, parameter.data) for parameter in network.parameters() if not parameter.requires_grad]
    shorten_frozen(network, precision)
    try:
        yield
    finally:
        for parameter, weight in before:
            parameter.data = weight


def _multiplies_bfloat16(accelerator: str) -> bool:
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        return torch.cuda.get_device_capability() >= (8, 0)
    if accelerator in ("auto", "gpu", "mps") and torch.backends.mps.is_available():
        return False
    return "avx512_bf16" in _cpu_flags() or "amx_bf16" in _cpu_flags()


def _cpu_flags() -> set[str]:
    """Return the CPU's feature flags; empty if there is no /proc/cpuinfo that lists them."""
    try:
        with open("/proc/cpuinfo") as file:
            lines = [line for line in file if line.startswith(("flags", "Features"))]
    except OSError:
        return set()
    return set(lines[0].split(":", 1)[1].split()) if lines else set()
