"""Kernel inception distance (KID) between two sets of features.

Binkowski et al. 2018, "Demystifying MMD GANs": the unbiased estimate of MMD^2 (Gretton et al. 2012, eq. 3) under the
kernel k(x, y) = (x . y / D + 1)^3. It can be negative for sets of the same distribution.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

CHUNK = 1024  # rows of the kernel matrix held at a time


class KID(Metric):
    """KID as MMD^2 of all rows, not of random subsets, and not multiplied by 1000 as in some papers."""

    is_differentiable = False
    higher_is_better = False
    full_state_update = False

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("real", default=[], dist_reduce_fx="cat")
        self.add_state("generated", default=[], dist_reduce_fx="cat")

    def update(self, features: Tensor, real: bool) -> None:
        """Add features (N, D) of real or generated images."""
        (self.real if real else self.generated).append(features.detach())  # type: ignore[union-attr,operator]

    def compute(self) -> Tensor:
        """Return KID, a float32 scalar. Raises ValueError with fewer than two real or two generated rows."""
        sides = [self.real, self.generated]
        if not all(side and len(dim_zero_cat(side)) >= 2 for side in sides):  # type: ignore[arg-type]
            raise ValueError("KID needs at least two real and two generated images")
        return mmd(*(dim_zero_cat(side).cpu() for side in sides)).float()  # type: ignore[arg-type]


def mmd(x: Tensor, y: Tensor) -> Tensor:
    """Return the unbiased MMD^2 of x (m, D) and y (n, D), a float64 scalar."""
    x, y = x.double(), y.double()
    return _mean_of_pairs(x) + _mean_of_pairs(y) - 2 * _kernel_sum(x, y) / (len(x) * len(y))


def _mean_of_pairs(x: Tensor) -> Tensor:
    """Return the mean of the kernel over pairs of different rows."""
    diagonal = ((x * x).sum(1) / x.shape[1] + 1) ** 3
    return (_kernel_sum(x, x) - diagonal.sum()) / (len(x) * (len(x) - 1))


def _kernel_sum(x: Tensor, y: Tensor) -> Tensor:
    return torch.stack([((rows @ y.T / x.shape[1] + 1) ** 3).sum() for rows in torch.split(x, CHUNK)]).sum()
