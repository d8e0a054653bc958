"""Latents and conditions that are NaN or infinite, as encoders that overflow return them: found and replaced."""

from __future__ import annotations

import torch
from torch import Tensor

from diffusion_train.conditioner.base import Cond, drop


def finite_rows(values: Tensor) -> Tensor:
    """Return (B,): whether all values of each row of `values` (B, ...) are finite."""
    return values.isfinite().reshape(len(values), -1).all(1)


def replace_rows(x0: Tensor, cond: Cond) -> tuple[Tensor, Cond, Tensor]:
    """Replace rows with a value that is not finite by the first row without one.

    Returns latents (B, ...), conditions, and which rows were finite, (B,). Without any finite row, all stay as they
    are. Does not wait for the device.
    """
    everything = {"x0": x0, **cond}
    finite = torch.stack([finite_rows(values) for values in everything.values()]).all(0)
    first = finite.int().argmax(keepdim=True)
    replaced = drop(everything, {name: values[first] for name, values in everything.items()}, finite)
    return replaced.pop("x0"), replaced, finite
