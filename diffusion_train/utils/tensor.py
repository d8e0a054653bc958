"""Small tensor helpers."""

from __future__ import annotations

from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn


def expand(values: Tensor, like: Tensor) -> Tensor:
    """Reshape values (B,) to (B, 1, ..., 1) with as many axes as `like` (B, ...)."""
    return values.reshape(-1, *[1] * (like.ndim - 1))


def row_mean(values: Tensor) -> Tensor:
    """Return the mean of each row, (B,), of values (B, ...)."""
    return values.flatten(1).mean(1)


def widest_dtype(network: nn.Module) -> torch.dtype:
    """Return the widest precision of a network's weights; frozen ones may be stored in a shorter one."""
    return reduce(torch.promote_types, {parameter.dtype for parameter in network.parameters()})


def to_device(tensor: Tensor, device: torch.device | str, dtype: torch.dtype | None = None) -> Tensor:
    """Return the tensor on `device`; copies to a GPU use pinned memory and do not wait for its pending work."""
    device, tensor = torch.device(device), tensor.to(dtype or tensor.dtype)
    if device.type != "cuda" or tensor.is_cuda:
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


class AsyncCopy:
    """Copies a tensor to the CPU asynchronously; reading it waits only for work queued before the copy."""

    def __init__(self, tensor: Tensor) -> None:
        self._tensor = tensor.to("cpu", non_blocking=tensor.is_cuda)
        self._event = torch.cuda.Event() if tensor.is_cuda else None  # type: ignore[no-untyped-call]
        if self._event is not None:
            self._event.record()

    def tolist(self) -> Any:
        """Wait for the copy and return its numbers: a list, or a number for a scalar."""
        if self._event is not None:
            self._event.synchronize()
        return self._tensor.tolist()


def best_device() -> str:
    """Return the fastest available device type: cuda, mps or cpu."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"
