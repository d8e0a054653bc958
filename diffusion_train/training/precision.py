"""What `trainer.precision=auto` means on this machine, and what mixed precision means for frozen weights."""

from __future__ import annotations

import torch
from torch import nn

_LONG = {"bf16": "bf16-mixed", "16": "16-mixed", "32": "32-true", "64": "64-true"}  # of Lightning's short names
_MULTIPLIED_IN = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


def resolve(precision: str, accelerator: str) -> str:
    """The fastest safe precision: bfloat16 autocast where the hardware multiplies bfloat16, float32 elsewhere.

    float16 is never chosen by itself: it overflows in some networks and autoencoders.
    """
    if precision != "auto":
        return _LONG.get(precision, precision)
    return "bf16-mixed" if _multiplies_bfloat16(accelerator) else "32-true"


def shorten_frozen(network: nn.Module, precision: str) -> None:
    """Keeps frozen weights in the precision that autocast multiplies them in, which changes no result.

    Autocast would make such a copy of each at every pass, and hold it for the way back beside the weight itself.
    """
    shorter = _MULTIPLIED_IN.get(precision)
    for layer in network.modules() if shorter else ():
        multiplied = isinstance(layer, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d))
        for parameter in layer.parameters(recurse=False):
            if not parameter.requires_grad:
                dtype = shorter if multiplied else parameter.dtype
                # always a copy: weights read from a file lie in one piece of memory, which the last of them would keep
                parameter.data = parameter.data.to(dtype, copy=True)


def _multiplies_bfloat16(accelerator: str) -> bool:
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        return torch.cuda.get_device_capability() >= (8, 0)
    if accelerator in ("auto", "gpu", "mps") and torch.backends.mps.is_available():
        return False
    return "avx512_bf16" in _cpu_flags() or "amx_bf16" in _cpu_flags()


def _cpu_flags() -> set[str]:
    """Empty where the system does not list them as Linux does."""
    try:
        with open("/proc/cpuinfo") as file:
            lines = [line for line in file if line.startswith(("flags", "Features"))]
    except OSError:
        return set()
    return set(lines[0].split(":", 1)[1].split()) if lines else set()
