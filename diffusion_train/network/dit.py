"""A transformer for images: takes x (B, C, H, W), t (B,) and conditions, returns (B, C, H, W).

Patches and adaLN-zero: Peebles & Xie 2023, "Scalable Diffusion Models with Transformers" (DiT). Rotary positions over
rows and columns, which need no table and so allow any H and W: Su et al. 2021, "RoFormer". SwiGLU: Shazeer 2020, "GLU
Variants Improve Transformer". Yao et al. 2025 (LightningDiT) show that SwiGLU, rotary positions and normalized queries
and keys improve diffusion transformers.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffusion_train.network.layers import (
    Attention,
    Conditions,
    check_size,
    check_width,
    join,
    modulate,
    num_heads,
    run,
    zero,
)


class DiT(nn.Module):
    """Diffusion transformer: `depth` blocks of `width` features on patches of `patch_size` x `patch_size` pixels.

    It returns 0 at initialization.
    """

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
        check_width(width, depth)
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
                f"network.width={width} gives heads of {self.head_dim} features, but rotary positions in two "
                "dimensions need a multiple of 4; use a width that is a multiple of 64"
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
        """Return the prediction (B, C, H, W) for x (B, C, H, W), t (B,) and conditions; H and W multiples of `factor`.

        text is (B, L, text_dim), text_mask (B, L), pooled (B, pooled_dim), label (B,), concat (B, concat_channels, H,
        W).
        """
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
    """Transformer block on h (B, N, width) with adaLN-zero: shift, scale and gate of each half come from the vector."""

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
    """SwiGLU on (B, N, width); with 8/3 * width hidden features it is as large as a plain MLP with 4 * width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        hidden = -(-8 * width // (3 * 32)) * 32
        self.up = nn.Linear(width, 2 * hidden)
        self.down = nn.Linear(hidden, width)

    def forward(self, h: Tensor) -> Tensor:
        gate, value = self.up(h).chunk(2, -1)
        return self.down(F.silu(gate) * value)


class Head(nn.Module):
    """Output layer: maps h (B, N, width) and vector (B, width) to (B, N, out_features)."""

    def __init__(self, width: int, out_features: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = zero(nn.Linear(width, 2 * width))
        self.out = zero(nn.Linear(width, out_features))

    def forward(self, h: Tensor, vector: Tensor) -> Tensor:
        shift, scale = self.modulation(F.silu(vector))[:, None].chunk(2, 2)
        return self.out(modulate(self.norm(h), shift, scale))


def rotations(height: int, width: int, head_dim: int, device: torch.device) -> Tensor:
    """Return (cosine, sine) of the angle of each pair of features at each patch.

    The shape is (2, height * width, head_dim / 2), the type float32.

    Half of the pairs rotate with the row, half with the column; the fastest by 1 radian per patch.
    """
    num = head_dim // 4
    frequency = 100.0 ** -(torch.arange(num, device=device, dtype=torch.float32) / num)
    row = (torch.arange(height, device=device)[:, None] * frequency)[:, None].expand(-1, width, -1)
    column = (torch.arange(width, device=device)[:, None] * frequency)[None].expand(height, -1, -1)
    angle = torch.cat([row, column], -1).flatten(0, 1)
    return torch.stack([angle.cos(), angle.sin()])
