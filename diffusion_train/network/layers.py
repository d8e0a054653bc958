"""The layers that the networks share.

B rows, C channels, H W height and width, N = H * W image tokens, L text tokens, D features of a token or vector.

Sinusoids of time: Vaswani et al. 2017, "Attention Is All You Need".
Residual block with adaptive group normalization: Dhariwal & Nichol 2021, "Diffusion Models Beat GANs" (ADM).
Text keys and values joined to those of the image, with one softmax over both: Saharia et al. 2022 (Imagen), D.3.1.
Normalized queries and keys: Dehghani et al. 2023, "Scaling Vision Transformers to 22 Billion Parameters".
"""

from __future__ import annotations

import math
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

M = TypeVar("M", bound=nn.Module)

HEAD_DIM = 64  # on a CPU, 4 heads of 32 take 20 to 33 % more time than 2 heads of 64
MAX_PERIOD = 10_000.0


def zero(module: M) -> M:
    """Set all parameters of the module to 0 and return it; used for the last layer of a residual branch."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


def group_norm(channels: int, affine: bool = True) -> nn.GroupNorm:
    """Return a GroupNorm with at most 32 groups, of at least 8 channels if there are that many."""
    return nn.GroupNorm(math.gcd(32, max(1, channels // 8), channels), channels, affine=affine)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Return x * (1 + scale) + shift in one pass; shift and scale must broadcast against x."""
    return torch.addcmul(shift, x, 1 + scale)


def run(block: nn.Module, *args: Tensor | None, checkpointing: bool) -> Tensor:
    """Return block(*args); with `checkpointing` the backward pass recomputes activations instead of storing them."""
    if checkpointing and torch.is_grad_enabled():
        return checkpoint(block, *args, use_reentrant=False)
    return block(*args)


def required(name: str, value: Tensor | None, because: str) -> Tensor:
    """Return `value`; raises ValueError if it is None although the network was built with the setting `because`."""
    if value is None:
        raise ValueError(
            f"the network was built with {because} but called without `{name}`: "
            f"use a conditioner that returns `{name}`, or build the network without that setting"
        )
    return value


def join(x: Tensor, concat: Tensor | None, concat_channels: int) -> Tensor:
    """Concatenate x (B, C, H, W) and concat (B, C', H, W) to (B, C + C', H, W); return x if `concat_channels` is 0."""
    if not concat_channels:
        return x
    concat = required("concat", concat, f"concat_channels={concat_channels}")
    if concat.shape[1] != concat_channels:
        raise ValueError(
            f"`concat` must have network.concat_channels={concat_channels} channels, got {concat.shape[1]}"
        )
    return torch.cat([x, concat.to(x.dtype)], 1)


def check_size(x: Tensor, factor: int) -> None:
    """Raise ValueError unless both sides of x (B, C, H, W) are multiples of `factor`."""
    if x.shape[-2] % factor or x.shape[-1] % factor:
        raise ValueError(
            f"the sides of the network's input must be multiples of {factor}, got height {x.shape[-2]} and width "
            f"{x.shape[-1]}"
        )


class TimeEmbedding(nn.Module):
    """Embeds the schedule's time labels t (B,) as (B, D).

    The sinusoids are computed in at least float32, whatever the network's precision.
    """

    def __init__(self, width: int, num_sinusoids: int = 256) -> None:
        super().__init__()
        self.num_frequencies = num_sinusoids // 2
        self.mlp = nn.Sequential(nn.Linear(num_sinusoids, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, t: Tensor) -> Tensor:
        dtype = torch.promote_types(_dtype(self.mlp), torch.promote_types(t.dtype, torch.float32))
        exponent = torch.arange(self.num_frequencies, device=t.device, dtype=dtype) / self.num_frequencies
        angle = t.to(dtype)[:, None] * MAX_PERIOD**-exponent
        return self.mlp(torch.cat([angle.cos(), angle.sin()], 1).to(_dtype(self.mlp)))


class Conditions(nn.Module):
    """Embeds time and conditions for the blocks of a network.

    Time, label, pooled text and the mean of the text tokens are added to one vector (B, width), which modulates every
    block. The blocks attend to the tokens (B, L, width). Conditions whose size is None are ignored.
    """

    def __init__(
        self, width: int, text_dim: int | None = None, pooled_dim: int | None = None, num_labels: int | None = None
    ) -> None:
        super().__init__()
        self.time = TimeEmbedding(width)
        self.text = nn.Sequential(nn.LayerNorm(text_dim), nn.Linear(text_dim, width)) if text_dim else None
        self.mean = nn.Linear(width, width) if text_dim else None
        self.pooled = (
            nn.Sequential(nn.LayerNorm(pooled_dim), nn.Linear(pooled_dim, width), nn.SiLU(), nn.Linear(width, width))
            if pooled_dim
            else None
        )
        self.label = nn.Embedding(num_labels + 1, width) if num_labels else None  # the last row means "no label"

    def forward(
        self, t: Tensor, text: Tensor | None, mask: Tensor | None, pooled: Tensor | None, label: Tensor | None
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Return vector (B, width), tokens (B, L, width) or None, and their mask (B, L) or None."""
        vector = self.time(t)
        if self.label is not None:
            vector = vector + self.label(required("label", label, f"num_labels={self.label.num_embeddings - 1}"))
        if self.pooled is not None:
            pooled = required("pooled", pooled, f"pooled_dim={self.pooled[1].in_features}")
            vector = vector + self.pooled(pooled.to(_dtype(self.pooled)))
        if self.text is None or self.mean is None:
            return vector, None, None
        text = required("text", text, f"text_dim={self.text[1].in_features}")
        tokens = self.text(text.to(_dtype(self.text)))
        return vector + self.mean(masked_mean(tokens, mask)), tokens, mask


def masked_mean(tokens: Tensor, mask: Tensor | None) -> Tensor:
    """Return the mean (B, D) of tokens (B, L, D) where mask (B, L) is true; 0 for a row without tokens."""
    if mask is None:
        return tokens.mean(1)
    weight = mask.to(tokens.dtype) / mask.sum(1, keepdim=True).clamp(min=1)
    return (tokens * weight[..., None]).sum(1)


def _dtype(module: nn.Module) -> torch.dtype:
    return next(module.parameters()).dtype


def check_width(width: int, depth: int) -> None:
    """Raise ValueError if a network of `depth` blocks of `width` features would have no weights to train."""
    if width < 1 or depth < 1:
        raise ValueError(f"network.width={width}, network.depth={depth}: must be at least 1")


def num_heads(width: int) -> int:
    """Return the largest number of heads that divides `width` and gives each at least HEAD_DIM features."""
    return max(n for n in range(1, max(1, width // HEAD_DIM) + 1) if width % n == 0)


class Attention(nn.Module):
    """Attention of image tokens to themselves and, in the same softmax, to text.

    A row whose text is masked out attends only to itself. The output layer is 0 at initialization.
    """

    def __init__(self, width: int, text_width: int | None = None) -> None:
        super().__init__()
        self.num_heads = num_heads(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.text_kv = nn.Linear(text_width, 2 * width) if text_width else None
        self.norm_q = nn.LayerNorm(width // self.num_heads, bias=False)
        self.norm_k = nn.LayerNorm(width // self.num_heads, bias=False)
        self.out = zero(nn.Linear(width, width))

    def forward(
        self, x: Tensor, text: Tensor | None = None, mask: Tensor | None = None, rotation: Tensor | None = None
    ) -> Tensor:
        """Return (B, N, D) for x (B, N, D), text (B, L, text_width) and mask (B, L), true where text is attended to.

        `rotation` (2, N, D / heads / 2) rotates the queries and keys of x by their position, see `rotate`.
        """
        q, k, v = self._heads(self.qkv(x), 3)
        q, k = self.norm_q(q), self.norm_k(k)
        if rotation is not None:
            q, k = rotate(q, rotation), rotate(k, rotation)
        if self.text_kv is not None:
            text_k, text_v = self._heads(self.text_kv(text), 2)
            k, v = torch.cat([k, self.norm_k(text_k)], 2), torch.cat([v, text_v], 2)
            mask = mask if mask is None else F.pad(mask, (x.shape[1], 0), value=True)[:, None, None]
        out = F.scaled_dot_product_attention(
            q.to(v.dtype), k.to(v.dtype), v, attn_mask=mask
        )  # norms may be wider than v
        return self.out(out.transpose(1, 2).flatten(2))

    def _heads(self, x: Tensor, count: int) -> tuple[Tensor, ...]:
        """Split (B, N, count * D) into `count` tensors (B, heads, N, D / heads)."""
        return x.unflatten(2, (count, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)


def rotate(x: Tensor, rotation: Tensor) -> Tensor:
    """Rotate each pair of features of x (B, heads, N, D) by the angle with (cosine, sine) in rotation (2, N, D / 2)."""
    cos, sin = rotation.to(x.dtype)
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)


class ResidualBlock(nn.Module):
    """Residual block: maps x (B, C, H, W) and vector (B, D) to (B, C, H, W); the identity at initialization."""

    def __init__(self, channels: int, vector_width: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = dropout
        self.norm1 = group_norm(channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.modulation = nn.Linear(vector_width, 2 * channels)
        self.norm2 = group_norm(channels, affine=False)
        self.conv2 = zero(nn.Conv2d(channels, channels, 3, padding=1))

    def forward(self, x: Tensor, vector: Tensor) -> Tensor:
        shift, scale = self.modulation(F.silu(vector))[:, :, None, None].chunk(2, 1)
        h = self.conv1(F.silu(self.norm1(x)))
        h = modulate(self.norm2(h), shift, scale)
        return x + self.conv2(F.dropout(F.silu(h), self.dropout, self.training))


class ImageAttention(nn.Module):
    """Attention over the pixels of x (B, C, H, W) and text (B, L, text_width) with mask (B, L).

    Returns (B, C, H, W); the identity at initialization.
    """

    def __init__(self, channels: int, text_width: int | None = None) -> None:
        super().__init__()
        self.norm = group_norm(channels)
        self.attention = Attention(channels, text_width)

    def forward(self, x: Tensor, text: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        tokens = self.norm(x).flatten(2).transpose(1, 2)
        return x + self.attention(tokens, text, mask).transpose(1, 2).unflatten(2, x.shape[2:])
