"""Samples -> a batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def collate(samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Tensors are stacked, numbers become a tensor (B,), text a list of B strings."""
    return {name: _column([sample[name] for sample in samples]) for name in samples[0]}


def _column(values: list[Any]) -> Any:
    if isinstance(values[0], Tensor):
        return torch.stack(values)
    return torch.tensor(values) if isinstance(values[0], int) else values
