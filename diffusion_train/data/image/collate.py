"""Collate samples into a batch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.data import default_collate

from diffusion_train.data.base import Batch, Sample


def collate(samples: list[Sample]) -> Batch:
    """Return a batch as training uses it, with images as floats."""
    return to_levels(default_collate(samples))


def to_levels(batch: Batch) -> Batch:
    """Convert images (uint8) of a batch to float32 in [-1, 1]; call it on the device, because bytes transfer faster."""
    return {
        name: value.float().div_(127.5).sub_(1.0) if isinstance(value, Tensor) and value.dtype == torch.uint8 else value
        for name, value in batch.items()
    }
