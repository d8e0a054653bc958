"""A residual MLP for points: takes x (B, D), t (B,) and label (B,), returns (B, D)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from diffusion_train.network.layers import Conditions, check_width, modulate, zero


class MLP(nn.Module):
    """MLP of `depth` residual blocks of `width` features on points with `in_channels` coordinates.

    It returns 0 at initialization.
    """

    def __init__(self, in_channels: int, width: int, depth: int, num_labels: int | None = None) -> None:
        super().__init__()
        check_width(width, depth)
        self.conditions = Conditions(width, num_labels=num_labels)
        self.stem = nn.Linear(in_channels, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(depth))
        self.head = nn.Sequential(nn.LayerNorm(width), zero(nn.Linear(width, in_channels)))

    def forward(self, x: Tensor, t: Tensor, *, label: Tensor | None = None) -> Tensor:
        vector, _, _ = self.conditions(t, None, None, None, label)
        h = self.stem(x)
        for block in self.blocks:
            h = block(h, vector)
        return self.head(h)


class Block(nn.Module):
    """Residual block on h (B, width), modulated by vector (B, width); the identity at initialization."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = nn.Linear(width, 2 * width)
        self.up = nn.Linear(width, 2 * width)
        self.down = zero(nn.Linear(2 * width, width))

    def forward(self, h: Tensor, vector: Tensor) -> Tensor:
        shift, scale = self.modulation(F.silu(vector)).chunk(2, 1)
        return h + self.down(F.silu(self.up(modulate(self.norm(h), shift, scale))))
