"""Small tensor helpers."""

from __future__ import annotations

from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn


def expand(values: Tensor, like: Tensor) -> Tensor:
    """(B,) -> (B, 1, ..., 1) with as many axes as `like` (B, ...)."""
    return values.reshape(-1, *[1] * (like.ndim - 1))


def row_mean(values: Tensor) -> Tensor:
    """(B, ...) -> (B,)."""
    return values.flatten(1).mean(1)


def widest_dtype(network: nn.Module) -> torch.dtype:
    """Of its weights, which stand in several precisions where frozen ones are kept in a shorter one."""
    return reduce(torch.promote_types, {parameter.dtype for parameter in network.parameters()})


def to_device(tensor: Tensor, device: torch.device | str, dtype: torch.dtype | None = None) -> Tensor:
    """The tensor on `device`, without waiting for what a GPU has yet to do: from memory that it copies by itself."""
    device, tensor = torch.device(device), tensor.to(dtype or tensor.dtype)
    if device.type != "cuda" or tensor.is_cuda:
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


class AsyncCopy:
    """A tensor on its way to the CPU: reading it waits for what the device had to do until then, not for what came after."""

    def __init__(self, tensor: Tensor) -> None:
        self._tensor = tensor.to("cpu", non_blocking=tensor.is_cuda)
        self._event = torch.cuda.Event() if tensor.is_cuda else None  # type: ignore[no-untyped-call]
        if self._event is not None:
            self._event.record()

    def tolist(self) -> list[Any]:
        if self._event is not None:
            self._event.synchronize()
        return self._tensor.tolist()


def best_device() -> str:
    """The fastest kind of device of this machine."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"
