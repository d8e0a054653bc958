"""Samples -> a batch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.data import default_collate

from diffusion_train.data.base import Batch, Sample


def collate(samples: list[Sample]) -> Batch:
    """A batch as it is trained on."""
    return to_levels(default_collate(samples))


def to_levels(batch: Batch) -> Batch:
    """Images, which are bytes until they are where they are trained on, become float32 in [-1, 1]."""
    return {
        name: value.float().div_(127.5).sub_(1.0) if isinstance(value, Tensor) and value.dtype == torch.uint8 else value
        for name, value in batch.items()
    }
