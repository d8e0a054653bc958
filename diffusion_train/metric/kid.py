"""Kernel inception distance (KID) between two sets of features.

Binkowski et al. 2018, "Demystifying MMD GANs": the unbiased estimate of MMD^2 (Gretton et al. 2012, eq. 3) under the
kernel k(x, y) = (x . y / D + 1)^3. It can be negative for sets of the same distribution. Intervals are jackknife
estimates with Student's t (Efron and Tibshirani 1993, "An Introduction to the Bootstrap", ch. 11). A bootstrap would
draw rows twice, and pairs of equal rows bias the estimate.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import Any

import torch
from scipy.special import stdtrit
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

CHUNK = 1024  # rows of the kernel matrix held at a time
_LEAST = 3  # groups or rows that an interval needs


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
    return torch.stack([_kernel(rows, y).sum() for rows in torch.split(x, CHUNK)]).sum()


@dataclass(frozen=True)
class Estimate:
    """MMD^2 of two sets, and its values without each group of x (G,) and without each row of y (m,)."""

    value: float
    without_x: Tensor
    without_y: Tensor

    def __sub__(self, other: Estimate) -> Estimate:
        """Return the difference of two estimates with the same groups of x (by number) and the same y."""
        return Estimate(self.value - other.value, self.without_x - other.without_x, self.without_y - other.without_y)

    @property
    def error(self) -> float | None:
        """Half the width of the 95 % interval; None if there are too few groups or rows to tell."""
        least = min(len(self.without_x), len(self.without_y))
        if least < _LEAST:
            return None
        variance = sum((len(one) - 1) * float(one.var(correction=0)) for one in (self.without_x, self.without_y))
        return float(stdtrit(least - 1, 0.975)) * sqrt(variance)


def estimate(x: Tensor, y: Tensor, group_size: int = 1) -> Estimate:
    """Return the estimate for x (G * group_size, D), whose groups are left out as a whole, and y (m, D).

    Samples of one prompt belong to one group, because they are alike.
    """
    x, y = x.double(), y.double()
    xx, yy = (_kernel(one, one).fill_diagonal_(0) for one in (x, y))
    xy = _kernel(x, y)
    n, m, groups = len(x), len(y), len(x) // group_size
    within_x = xx.reshape(groups, group_size, groups, group_size).sum((1, 3))
    across = xy.reshape(groups, group_size, m).sum(1)

    def value(of_x: Tensor, of_y: Tensor, of_both: Tensor, n: int, m: int) -> Tensor:
        return of_x / (n * (n - 1)) + of_y / (m * (m - 1)) - 2 * of_both / (n * m)

    enough_x, enough_y = n - group_size > 1, m > 2
    return Estimate(
        float(value(xx.sum(), yy.sum(), xy.sum(), n, m)),
        value(_without(within_x), yy.sum(), xy.sum() - across.sum(1), n - group_size, m) if enough_x else x[:0, 0],
        value(xx.sum(), _without(yy), xy.sum() - across.sum(0), n, m - 1) if enough_y else y[:0, 0],
    )


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y.T / x.shape[1] + 1) ** 3


def _without(sums: Tensor) -> Tensor:
    """Return the sums (N,) of a symmetric matrix (N, N) without row and column i."""
    return sums.sum() - 2 * sums.sum(1) + sums.diagonal()
