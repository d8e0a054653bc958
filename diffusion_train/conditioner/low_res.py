"""Super-resolution: a smaller version of the image, enlarged and concatenated to the network's input.

Saharia et al. 2021, "Image Super-Resolution via Iterative Refinement", section 2.
"""

from __future__ import annotations

from typing import Any

from torch.nn.functional import interpolate

from diffusion_train.conditioner.base import Cond, Conditioner, entry


class LowRes(Conditioner):
    """Returns `concat` (B, channels, size, size) from `batch[key]` (B, channels, h, w) in [-1, 1]. Grey is no image."""

    reads_images = True

    def __init__(self, size: int, channels: int = 3, key: str = "low_res") -> None:
        super().__init__()
        self.size, self.channels, self.key = size, channels, key

    def forward(self, batch: dict[str, Any]) -> Cond:
        small = entry(batch, self.key, "LowRes").to(self.like)
        if small.shape[1] != self.channels:
            raise ValueError(
                f"{self.key!r} must have conditioner.channels={self.channels} channels, got {small.shape[1]}"
            )
        return {"concat": interpolate(small, (self.size, self.size), mode="bicubic", antialias=True).clamp(-1, 1)}

    def null(self, n: int) -> Cond:
        return {"concat": self.like.new_zeros(n, self.channels, self.size, self.size)}
