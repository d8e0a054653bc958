"""Palettes: the main colours of a set of images with their fractions, and the distance between two palettes.

The distance is optimal transport ("earth mover's distance", Rubner, Tomasi, Guibas 2000) under CIEDE2000: the mean
colour difference when the colours of one palette are moved to those of the other at the least cost.
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
    """Colours (K, 3) in CIELAB and their fractions (K,), which sum to 1, largest first; float64."""

    colours: Tensor
    fractions: Tensor


def palette(*images: Tensor, num_colours: int = 8) -> Palette:
    """Return the common palette of batches of images, each (B, 1 or 3, H, W) in [-1, 1]."""
    return of_histogram(torch.stack([histogram(batch) for batch in images]).sum(0), num_colours)


def distance(one: Palette, other: Palette) -> Tensor:
    """Return the distance of two palettes, a float64 scalar in units of CIEDE2000."""
    cost = ciede2000(one.colours[:, None], other.colours[None])
    return (transport(one.fractions, other.fractions, cost) * cost).sum()


def histogram(images: Tensor) -> Tensor:
    """Return (32768, 4): for each sRGB bin its fraction of pixels, and the sum of CIELAB colours weighted by it.

    Images are (B, 1 or 3, H, W) in [-1, 1]; the fractions sum to B.
    """
    rgb = ((images.detach().float() + 1) * 127.5).round().clamp(0, 255).expand(-1, 3, -1, -1)
    rgb = rgb.permute(0, 2, 3, 1).reshape(-1, 3)
    bins = (rgb.long() * _LEVELS // 256) @ torch.tensor([_LEVELS**2, _LEVELS, 1], device=rgb.device)
    weight = torch.full(
        (len(rgb), 1), 1 / (images.shape[-1] * images.shape[-2]), dtype=torch.float64, device=rgb.device
    )
    rows = torch.cat([weight, weight * srgb_to_lab(rgb / 255)], 1)
    return torch.zeros(_LEVELS**3, 4, dtype=torch.float64, device=rgb.device).index_add_(0, bins, rows)


def of_histogram(sums: Tensor, num_colours: int) -> Palette:
    """Return the palette of a histogram by k-means in CIELAB, without randomness; fewer colours if fewer bins are used.

    Raises ValueError for an empty histogram.
    """
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
    """Choose `count` start colours: the most frequent one, then always the largest weight times squared distance."""
    chosen = [int(weights.argmax())]
    nearest = ((colours - colours[chosen[0]]) ** 2).sum(1)
    while len(chosen) < min(count, len(colours)) and float(nearest.max()) > 0:
        chosen.append(int((weights * nearest).argmax()))
        nearest = torch.minimum(nearest, ((colours - colours[chosen[-1]]) ** 2).sum(1))
    return colours[chosen]


def transport(supply: Tensor, demand: Tensor, cost: Tensor) -> Tensor:
    """Return the exact optimal transport plan (m, n) from supply (m,) to demand (n,), each of sum 1, at cost (m, n)."""
    m, n = cost.shape
    leaves, arrives = np.kron(np.eye(m), np.ones(n)), np.kron(np.ones(m), np.eye(n))
    plan = linprog(cost.flatten().numpy(), A_eq=np.vstack([leaves, arrives]), b_eq=torch.cat([supply, demand]).numpy())
    return torch.from_numpy(plan.x).reshape(m, n)
