"""What `trainer.precision=auto` means on this machine."""

from __future__ import annotations

import torch


def resolve(precision: str, accelerator: str) -> str:
    """The fastest safe precision: bfloat16 autocast where the hardware multiplies bfloat16, float32 elsewhere.

    float16 is never chosen by itself: it overflows in some networks and autoencoders.
    """
    if precision != "auto":
        return precision
    return "bf16-mixed" if _multiplies_bfloat16(accelerator) else "32-true"


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
