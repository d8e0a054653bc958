"""A transformer for images: x (B, C, H, W), t (B,), conditions -> (B, C, H, W).

Scalable Diffusion Models with Transformers (Peebles & Xie 2023, DiT): patches, adaLN-zero.
RoFormer (Su et al. 2021), over rows and columns: rotary positions; they have no table, so that any H and W will do.
GLU Variants Improve Transformer (Shazeer 2020); Yao et al. 2025 (LightningDiT): SwiGLU, rotary positions, normalised
queries and keys pay in diffusion too.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffusion_train.network.layers import Attention, Conditions, check_size, join, modulate, num_heads, run, zero


class DiT(nn.Module):
    """`depth` blocks of `width` features on patches of `patch_size` x `patch_size` pixels. Predicts 0 at the start."""

    def __init__(
        self,
        in_channels: int,
        width: int,
        depth: int,
        patch_size: int = 2,
        text_dim: int | None = None,
        pooled_dim: int | None = None,
        num_labels: int | None = None,
        concat_channels: int = 0,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        text_width = width if text_dim else None
        area = patch_size**2
        self.patch_size, self.concat_channels = patch_size, concat_channels
        self.factor = patch_size
        self.gradient_checkpointing = gradient_checkpointing
        self.conditions = Conditions(width, text_dim, pooled_dim, num_labels)
        self.stem = nn.Linear((in_channels + concat_channels) * area, width)
        self.blocks = nn.ModuleList(Block(width, text_width) for _ in range(depth))
        self.head = Head(width, in_channels * area)
        self.head_dim = width // num_heads(width)
        if self.head_dim % 4:
            raise ValueError(
                f"network.width={width} gives heads of {self.head_dim} features; rotary positions in two "
                "dimensions need a multiple of 4: choose a multiple of 64"
            )

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        *,
        text: Tensor | None = None,
        text_mask: Tensor | None = None,
        pooled: Tensor | None = None,
        label: Tensor | None = None,
        concat: Tensor | None = None,
    ) -> Tensor:
        check_size(x, self.factor)
        cond = self.conditions(t, text, text_mask, pooled, label)
        patches = F.pixel_unshuffle(join(x, concat, self.concat_channels), self.patch_size)
        size = patches.shape[2:]
        rotation = rotations(size[0], size[1], self.head_dim, x.device)
        h = self.stem(patches.flatten(2).transpose(1, 2))
        for block in self.blocks:
            h = run(block, h, *cond, rotation, checkpointing=self.gradient_checkpointing)
        return F.pixel_shuffle(self.head(h, cond[0]).transpose(1, 2).unflatten(2, size), self.patch_size)


class Block(nn.Module):
    """h (B, N, width) -> (B, N, width); adaLN-zero: shift, scale and gate of each half come from the vector."""

    def __init__(self, width: int, text_width: int | None) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.attention = Attention(width, text_width)
        self.mlp = SwiGLU(width)
        self.modulation = zero(nn.Linear(width, 6 * width))

    def forward(self, h: Tensor, vector: Tensor, text: Tensor | None, mask: Tensor | None, rotation: Tensor) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(F.silu(vector))[:, None].chunk(6, 2)
        h = h + gate1 * self.attention(modulate(self.norm(h), shift1, scale1), text, mask, rotation)
        return h + gate2 * self.mlp(modulate(self.norm(h), shift2, scale2))


class SwiGLU(nn.Module):
    """(B, N, width) -> (B, N, width), with 8/3 * width hidden features: the size of a plain MLP of 4 * width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        hidden = -(-8 * width // (3 * 32)) * 32
        self.up = nn.Linear(width, 2 * hidden)
        self.down = nn.Linear(hidden, width)

    def forward(self, h: Tensor) -> Tensor:
        gate, value = self.up(h).chunk(2, -1)
        return self.down(F.silu(gate) * value)


class Head(nn.Module):
    """h (B, N, width), vector (B, width) -> (B, N, out_features)."""

    def __init__(self, width: int, out_features: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = zero(nn.Linear(width, 2 * width))
        self.out = zero(nn.Linear(width, out_features))

    def forward(self, h: Tensor, vector: Tensor) -> Tensor:
        shift, scale = self.modulation(F.silu(vector))[:, None].chunk(2, 2)
        return self.out(modulate(self.norm(h), shift, scale))


def rotations(height: int, width: int, head_dim: int, device: torch.device) -> Tensor:
    """(cosine, sine) of each pair's angle at each place: (2, height * width, head_dim / 2), float32.

    A quarter of the features turns with the row, another with the column; the fastest by 1 radian a patch.
    """
    num = head_dim // 4
    frequency = 100.0 ** -(torch.arange(num, device=device, dtype=torch.float32) / num)
    row = (torch.arange(height, device=device)[:, None] * frequency)[:, None].expand(-1, width, -1)
    column = (torch.arange(width, device=device)[:, None] * frequency)[None].expand(height, -1, -1)
    angle = torch.cat([row, column], -1).flatten(0, 1)
    return torch.stack([angle.cos(), angle.sin()])
