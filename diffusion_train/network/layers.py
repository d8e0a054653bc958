"""The layers that the networks share.

Legend: B rows, C channels, H W height and width, N = H * W image tokens, L text tokens, D features of a token or vector.

Attention Is All You Need (Vaswani et al. 2017): sinusoids of time.
Diffusion Models Beat GANs (Dhariwal & Nichol 2021, ADM): residual block with adaptive group normalisation.
Imagen (Saharia et al. 2022), appendix D.3.1: text keys and values joined to those of the image, one softmax over both.
Scaling Vision Transformers to 22 Billion Parameters (Dehghani et al. 2023): normalised queries and keys.
"""

from __future__ import annotations

import math
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

M = TypeVar("M", bound=nn.Module)

HEAD_DIM = 64  # on CPU 4 heads of 32 cost a fifth to a third more than 2 heads of 64
MAX_PERIOD = 10_000.0


def zero(module: M) -> M:
    """The same module with all parameters 0: the end of a residual branch that starts as nothing."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


def group_norm(channels: int, affine: bool = True) -> nn.GroupNorm:
    """At most 32 groups, of at least 8 channels where there are as many."""
    return nn.GroupNorm(math.gcd(32, max(1, channels // 8), channels), channels, affine=affine)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """x * (1 + scale) + shift, in one pass; shift and scale broadcast against x."""
    return torch.addcmul(shift, x, 1 + scale)


def run(block: nn.Module, *args: Tensor | None, checkpointing: bool) -> Tensor:
    """block(*args); with `checkpointing` its activations are computed again in the backward pass instead of kept."""
    if checkpointing and torch.is_grad_enabled():
        return checkpoint(block, *args, use_reentrant=False)
    return block(*args)


def required(name: str, value: Tensor | None, because: str) -> Tensor:
    """`value`, which a network built with `because` cannot do without."""
    if value is None:
        raise ValueError(
            f"the network was built with {because} but called without `{name}`: "
            f"choose a conditioner that gives `{name}`, or build the network without"
        )
    return value


def join(x: Tensor, concat: Tensor | None, concat_channels: int) -> Tensor:
    """x (B, C, H, W) and concat (B, C', H, W) -> (B, C + C', H, W); x alone where no channels are joined."""
    if not concat_channels:
        return x
    concat = required("concat", concat, f"concat_channels={concat_channels}")
    if concat.shape[1] != concat_channels:
        raise ValueError(f"`concat` has {concat.shape[1]} channels, but network.concat_channels={concat_channels}")
    return torch.cat([x, concat.to(x.dtype)], 1)


def check_size(x: Tensor, factor: int) -> None:
    """Refuse images whose sides the network cannot halve as often as it must."""
    if x.shape[-2] % factor or x.shape[-1] % factor:
        raise ValueError(
            f"the network divides images by {factor}, but got height {x.shape[-2]} and width {x.shape[-1]}"
        )


class TimeEmbedding(nn.Module):
    """t (B,) as a schedule labels it -> (B, D). The sinusoids are float32 at least, whatever the network's precision."""

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
    """The inputs of a network beside x, embedded for its blocks.

    Time, label, pooled text and the mean of the text's tokens add up to one vector (B, width), which modulates every
    block; the tokens themselves (B, L, width) are attended to. What has no size here is ignored.
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
        self.label = nn.Embedding(num_labels + 1, width) if num_labels else None  # the last one means "no label"

    def forward(
        self, t: Tensor, text: Tensor | None, mask: Tensor | None, pooled: Tensor | None, label: Tensor | None
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """-> vector (B, width), tokens (B, L, width) or None, their mask (B, L) or None."""
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
    """tokens (B, L, D), mask (B, L) -> (B, D); 0 for a row without tokens."""
    if mask is None:
        return tokens.mean(1)
    weight = mask.to(tokens.dtype) / mask.sum(1, keepdim=True).clamp(min=1)
    return (tokens * weight[..., None]).sum(1)


def _dtype(module: nn.Module) -> torch.dtype:
    return next(module.parameters()).dtype


def num_heads(width: int) -> int:
    """Heads of at least HEAD_DIM features, as near to it as divides the width."""
    return max(n for n in range(1, max(1, width // HEAD_DIM) + 1) if width % n == 0)


class Attention(nn.Module):
    """x (B, N, D) attends to itself and, in the same softmax, to text (B, L, text_width) where the mask (B, L) is true.

    A row whose text is masked out attends to itself alone. `rotation` turns the queries and keys of x by their place.
    The end is 0 at the start.
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
        """(B, N, count * D) -> `count` tensors (B, heads, N, D / heads)."""
        return x.unflatten(2, (count, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)


def rotate(x: Tensor, rotation: Tensor) -> Tensor:
    """Turn each pair of features of x (B, heads, N, D) by the angle whose (cosine, sine) is in rotation (2, N, D / 2)."""
    cos, sin = rotation.to(x.dtype)
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)


class ResidualBlock(nn.Module):
    """x (B, C, H, W), vector (B, D) -> (B, C, H, W). The identity at the start."""

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
    """x (B, C, H, W), text (B, L, text_width), mask (B, L) -> (B, C, H, W). The identity at the start."""

    def __init__(self, channels: int, text_width: int | None = None) -> None:
        super().__init__()
        self.norm = group_norm(channels)
        self.attention = Attention(channels, text_width)

    def forward(self, x: Tensor, text: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        tokens = self.norm(x).flatten(2).transpose(1, 2)
        return x + self.attention(tokens, text, mask).transpose(1, 2).unflatten(2, x.shape[2:])
