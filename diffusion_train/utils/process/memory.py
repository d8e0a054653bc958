"""The memory that this process used at its peak."""

from __future__ import annotations

import resource
from contextlib import suppress
from pathlib import Path

import torch


def peak_bytes() -> int:
    """Return what torch has allocated on a GPU at the peak; without a GPU, what was resident of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    with suppress(OSError):
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM"))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
