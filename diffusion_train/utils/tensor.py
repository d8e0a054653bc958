"""Small tensor helpers."""

from __future__ import annotations

from torch import Tensor


def expand(values: Tensor, like: Tensor) -> Tensor:
    """(B,) -> (B, 1, ..., 1) with as many axes as `like` (B, ...)."""
    return values.reshape(-1, *[1] * (like.ndim - 1))


def row_mean(values: Tensor) -> Tensor:
    """(B, ...) -> (B,)."""
    return values.flatten(1).mean(1)
