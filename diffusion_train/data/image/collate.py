"""Samples -> a batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from diffusion_train.data.base import Batch, Sample


def collate(samples: Sequence[Sample]) -> Batch:
    """A batch as it is trained on."""
    return to_levels(stack(samples))


def stack(samples: Sequence[Sample]) -> Batch:
    """Tensors are stacked, numbers become a tensor (B,), text a list of B strings."""
    return {name: _column([sample[name] for sample in samples]) for name in samples[0]}


def to_levels(batch: Batch) -> Batch:
    """Images, which are bytes until they are where they are trained on, become float32 in [-1, 1]."""
    return {
        name: value.float().div_(127.5).sub_(1.0) if isinstance(value, Tensor) and value.dtype == torch.uint8 else value
        for name, value in batch.items()
    }


def _column(values: list[Any]) -> Any:
    if isinstance(values[0], Tensor):
        return torch.stack(values)
    return torch.tensor(values) if isinstance(values[0], int) else values
