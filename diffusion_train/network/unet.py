"""A U-Net for images: takes x (B, C, H, W), t (B,) and conditions, returns (B, C, H, W).

Residual blocks and adaptive group normalization are those of ADM (Dhariwal & Nichol 2021). Text joins the
self-attention of the image as in Imagen (Saharia et al. 2022). Two changes make it cheaper than both: skips are added
through a 1x1 convolution instead of concatenated, and only the resampling changes the number of channels.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from diffusion_train.network.layers import (
    Conditions,
    ImageAttention,
    ResidualBlock,
    check_size,
    group_norm,
    join,
    run,
    zero,
)

Cond = tuple[Tensor, Tensor | None, Tensor | None]  # vector (B, D), text (B, L, D), its mask (B, L)


class UNet(nn.Module):
    """U-Net with one entry of `channels`, `num_blocks` and `attention` per level, from the finest to the coarsest.

    A level has `num_blocks` blocks on the way down and as many on the way up; the next level has half the height and
    width. With `patch_size` p, patches of p x p pixels become channels of the finest level. It returns 0 at
    initialization.
    """

    def __init__(
        self,
        in_channels: int,
        channels: Sequence[int],
        num_blocks: Sequence[int],
        attention: Sequence[bool],
        patch_size: int = 1,
        text_dim: int | None = None,
        pooled_dim: int | None = None,
        num_labels: int | None = None,
        concat_channels: int = 0,
        dropout: float = 0.0,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        if not 0 <= dropout < 1:
            raise ValueError(f"network.dropout={dropout:g}: must be in [0, 1)")
        _check_levels(channels, num_blocks, attention)
        self.patch_size, self.concat_channels = patch_size, concat_channels
        self.gradient_checkpointing = gradient_checkpointing
        self.factor = patch_size * 2 ** (len(channels) - 1)
        width = 4 * channels[0]
        area = patch_size**2
        block = partial(Block, vector_width=width, text_width=width if text_dim else None, dropout=dropout)

        self.conditions = Conditions(width, text_dim, pooled_dim, num_labels)
        self.stem = nn.Conv2d((in_channels + concat_channels) * area, channels[0], 3, padding=1)
        self.encoder, self.decoder = nn.ModuleList(), nn.ModuleList()
        for i, (size, count, attends) in enumerate(zip(channels, num_blocks, attention, strict=True)):
            finer = channels[max(i - 1, 0)]
            blocks = [[block(size, attends) for _ in range(count)] for _ in range(2)]
            self.encoder.append(Downward(finer, size, i > 0, blocks[0]))
            self.decoder.insert(0, Upward(size, finer, i > 0, blocks[1]))
        self.middle = block(channels[-1], attention[-1])
        self.head = nn.Sequential(
            group_norm(channels[0]), nn.SiLU(), zero(nn.Conv2d(channels[0], in_channels * area, 3, padding=1))
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
        h = self.stem(F.pixel_unshuffle(join(x, concat, self.concat_channels), self.patch_size))
        skips: list[Tensor] = []
        for level in self.encoder:
            h = level(h, skips, cond, self.gradient_checkpointing)
        h = run(self.middle, h, *cond, checkpointing=self.gradient_checkpointing)
        for level in self.decoder:
            h = level(h, skips, cond, self.gradient_checkpointing)
        return F.pixel_shuffle(self.head(h), self.patch_size)


class Downward(nn.Module):
    """A level on the way down: halves height and width, then runs its blocks, each of which appends a skip."""

    def __init__(self, finer: int, channels: int, halve: bool, blocks: Iterable[Block]) -> None:
        super().__init__()
        self.resample = nn.Conv2d(finer, channels, 2, stride=2) if halve else nn.Identity()
        self.blocks = nn.ModuleList(blocks)

    def forward(self, h: Tensor, skips: list[Tensor], cond: Cond, checkpointing: bool) -> Tensor:
        h = self.resample(h)
        for block in self.blocks:
            h = run(block, h, *cond, checkpointing=checkpointing)
            skips.append(h)
        return h


class Upward(nn.Module):
    """A level on the way up: runs its blocks, each after adding a skip, then doubles height and width."""

    def __init__(self, channels: int, finer: int, double: bool, blocks: Iterable[Block]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.merges = nn.ModuleList(nn.Conv2d(channels, channels, 1) for _ in self.blocks)
        enlarge = nn.Upsample(scale_factor=2, mode="nearest")  # after the convolution: same result, a quarter the work
        self.resample = nn.Sequential(nn.Conv2d(channels, finer, 1), enlarge) if double else nn.Identity()

    def forward(self, h: Tensor, skips: list[Tensor], cond: Cond, checkpointing: bool) -> Tensor:
        for merge, block in zip(self.merges, self.blocks, strict=True):
            h = run(block, h + merge(skips.pop()), *cond, checkpointing=checkpointing)
        return self.resample(h)


class Block(nn.Module):
    """A residual block, followed by attention if the level has it."""

    def __init__(self, channels: int, attends: bool, vector_width: int, text_width: int | None, dropout: float) -> None:
        super().__init__()
        self.residual = ResidualBlock(channels, vector_width, dropout)
        self.attention = ImageAttention(channels, text_width) if attends else None

    def forward(self, x: Tensor, vector: Tensor, text: Tensor | None, mask: Tensor | None) -> Tensor:
        x = self.residual(x, vector)
        return x if self.attention is None else self.attention(x, text, mask)


def _check_levels(channels: Sequence[int], num_blocks: Sequence[int], attention: Sequence[bool]) -> None:
    if not len(channels) == len(num_blocks) == len(attention) > 0:
        raise ValueError(
            "network.channels, network.num_blocks and network.attention must have one entry per level, got "
            f"{len(channels)}, {len(num_blocks)} and {len(attention)} entries"
        )
    if min(*channels, *num_blocks) < 1:
        raise ValueError(
            f"network.channels={list(channels)}, network.num_blocks={list(num_blocks)}: must be at least 1"
        )
