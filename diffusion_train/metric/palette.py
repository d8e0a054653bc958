"""The colours of a set of images: a few with their shares, and how far two palettes are apart.

The distance is that of optimal transport ("earth mover's distance", Rubner, Tomasi, Guibas 2000) under CIEDE2000: the mean
difference that is seen when every share of one palette's colours is moved to the other's at the least cost.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import linprog
from torch import Tensor

from diffusion_train.metric.colour import ciede2000, srgb_to_lab

_LEVELS = 32  # of each channel in the histogram
_ROUNDS = 50


class Palette(NamedTuple):
    """(K, 3) in CIELAB and shares (K,) that sum to 1, largest first; float64."""

    colours: Tensor
    fractions: Tensor


def palette(*images: Tensor, num_colours: int = 8) -> Palette:
    """Of all together, each (B, 1 or 3, H, W) in [-1, 1]."""
    return of_histogram(torch.stack([histogram(batch) for batch in images]).sum(0), num_colours)


def distance(one: Palette, other: Palette) -> Tensor:
    """(), float64, in units of CIEDE2000."""
    cost = ciede2000(one.colours[:, None], other.colours[None])
    return (transport(one.fractions, other.fractions, cost) * cost).sum()


def histogram(images: Tensor) -> Tensor:
    """(32768, 4): of each bin of sRGB the share of pixels, and the sum of their colours in CIELAB weighted by it."""
    rgb = ((images.detach().float() + 1) * 127.5).round().clamp(0, 255).expand(-1, 3, -1, -1)
    rgb = rgb.permute(0, 2, 3, 1).reshape(-1, 3)
    bins = (rgb.long() * _LEVELS // 256) @ torch.tensor([_LEVELS**2, _LEVELS, 1], device=rgb.device)
    weight = torch.full(
        (len(rgb), 1), 1 / (images.shape[-1] * images.shape[-2]), dtype=torch.float64, device=rgb.device
    )
    rows = torch.cat([weight, weight * srgb_to_lab(rgb / 255)], 1)
    return torch.zeros(_LEVELS**3, 4, dtype=torch.float64, device=rgb.device).index_add_(0, bins, rows)


def of_histogram(sums: Tensor, num_colours: int) -> Palette:
    """k-means in CIELAB on the bins that are there (fewer colours where there are fewer bins); no chance is in it."""
    used = sums[sums[:, 0] > 0].cpu()
    if not len(used):
        raise ValueError("a palette needs at least one image")
    weights, colours = used[:, 0], used[:, 1:] / used[:, :1]
    centres = _spread(colours, weights, num_colours)
    for _ in range(_ROUNDS):
        label = torch.cdist(colours, centres).argmin(1)
        fraction = torch.zeros(len(centres), dtype=torch.float64).index_add_(0, label, weights)
        sums_of = torch.zeros_like(centres).index_add_(0, label, weights[:, None] * colours)
        moved = torch.where(fraction[:, None] > 0, sums_of / fraction[:, None].clamp_min(1e-300), centres)
        if torch.equal(moved, centres):
            break
        centres = moved
    order = fraction.argsort(descending=True, stable=True)
    order = order[fraction[order] > 0]
    return Palette(centres[order], fraction[order] / fraction.sum())


def _spread(colours: Tensor, weights: Tensor, count: int) -> Tensor:
    """The commonest colour, then again and again the one that matters most: its weight times its squared distance."""
    chosen = [int(weights.argmax())]
    nearest = ((colours - colours[chosen[0]]) ** 2).sum(1)
    while len(chosen) < min(count, len(colours)) and float(nearest.max()) > 0:
        chosen.append(int((weights * nearest).argmax()))
        nearest = torch.minimum(nearest, ((colours - colours[chosen[-1]]) ** 2).sum(1))
    return colours[chosen]


def transport(supply: Tensor, demand: Tensor, cost: Tensor) -> Tensor:
    """Shares (m,) and (n,) of sum 1, cost (m, n) -> what goes from where to where (m, n) at the least cost, exactly."""
    m, n = cost.shape
    leaves, arrives = np.kron(np.eye(m), np.ones(n)), np.kron(np.ones(m), np.eye(n))
    plan = linprog(cost.flatten().numpy(), A_eq=np.vstack([leaves, arrives]), b_eq=torch.cat([supply, demand]).numpy())
    return torch.from_numpy(plan.x).reshape(m, n)
