"""The colours of a set of images: a few with their shares, and how far two palettes are apart.

The distance is that of optimal transport ("earth mover's distance", Rubner, Tomasi, Guibas 2000) under CIEDE2000: the mean
difference that is seen when every share of one palette's colours is moved to the other's at the least cost.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric

from diffusion_train.metric.colour import ciede2000, srgb_to_lab

_LEVELS = 32  # of each channel in the histogram
_ROUNDS = 50


class Palette(NamedTuple):
    """(K, 3) in CIELAB and shares (K,) that sum to 1, largest first; float64."""

    colours: Tensor
    shares: Tensor


class PaletteDistance(Metric):
    """Mean CIEDE2000 difference between the palettes of real and generated images; 0: the same colours in the same shares.

    Every image counts the same. State is a histogram of colours for each side, with the mean colour of each bin.
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False
    real: Tensor
    generated: Tensor

    def __init__(self, num_colours: int = 8, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_colours = num_colours
        for side in ("real", "generated"):
            self.add_state(side, default=torch.zeros(_LEVELS**3, 4, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, images: Tensor, real: bool) -> None:
        """(B, 1 or 3, H, W) in [-1, 1]."""
        sums = histogram(images).to(self.device)
        if real:
            self.real += sums
        else:
            self.generated += sums

    def palettes(self) -> tuple[Palette, Palette]:
        """Of real and of generated images. Raises ValueError if a side has none."""
        return of_histogram(self.real, self.num_colours), of_histogram(self.generated, self.num_colours)

    def compute(self) -> Tensor:
        return distance(*self.palettes()).float()


def palette(*images: Tensor, num_colours: int = 8) -> Palette:
    """Of all together, each (B, 1 or 3, H, W) in [-1, 1]."""
    return of_histogram(torch.stack([histogram(batch) for batch in images]).sum(0), num_colours)


def distance(one: Palette, other: Palette) -> Tensor:
    """(), float64, in units of CIEDE2000."""
    cost = ciede2000(one.colours[:, None], other.colours[None])
    return (transport(one.shares, other.shares, cost) * cost).sum()


def histogram(images: Tensor) -> Tensor:
    """(32768, 4): of each bin of sRGB the share of pixels, and the sum of their colours in CIELAB weighted by it."""
    rgb = ((images.detach().float() + 1) * 127.5).round().clamp(0, 255).expand(-1, 3, -1, -1)
    rgb = rgb.permute(0, 2, 3, 1).reshape(-1, 3)
    place = (rgb.long() * _LEVELS // 256) @ torch.tensor([_LEVELS**2, _LEVELS, 1], device=rgb.device)
    weight = torch.full(
        (len(rgb), 1), 1 / (images.shape[-1] * images.shape[-2]), dtype=torch.float64, device=rgb.device
    )
    rows = torch.cat([weight, weight * srgb_to_lab(rgb / 255)], 1)
    return torch.zeros(_LEVELS**3, 4, dtype=torch.float64, device=rgb.device).index_add_(0, place, rows)


def of_histogram(sums: Tensor, num_colours: int) -> Palette:
    """k-means in CIELAB on the bins that are there (fewer colours where there are fewer bins); no chance is in it."""
    used = sums[sums[:, 0] > 0].cpu()
    if not len(used):
        raise ValueError("a palette needs at least one image")
    weights, colours = used[:, 0], used[:, 1:] / used[:, :1]
    centres = _spread(colours, weights, num_colours)
    for _ in range(_ROUNDS):
        label = torch.cdist(colours, centres).argmin(1)
        share = torch.zeros(len(centres), dtype=torch.float64).index_add_(0, label, weights)
        sums_of = torch.zeros_like(centres).index_add_(0, label, weights[:, None] * colours)
        moved = torch.where(share[:, None] > 0, sums_of / share[:, None].clamp_min(1e-300), centres)
        if torch.equal(moved, centres):
            break
        centres = moved
    order = share.argsort(descending=True, stable=True)
    order = order[share[order] > 0]
    return Palette(centres[order], share[order] / share.sum())


def _spread(colours: Tensor, weights: Tensor, count: int) -> Tensor:
    """The commonest colour, then again and again the one that matters most: its weight times its squared distance."""
    chosen = [int(weights.argmax())]
    nearest = ((colours - colours[chosen[0]]) ** 2).sum(1)
    while len(chosen) < min(count, len(colours)) and float(nearest.max()) > 0:
        chosen.append(int((weights * nearest).argmax()))
        nearest = torch.minimum(nearest, ((colours - colours[chosen[-1]]) ** 2).sum(1))
    return colours[chosen]


def transport(supply: Tensor, demand: Tensor, cost: Tensor) -> Tensor:
    """Shares (m,) and (n,) of sum 1, cost (m, n) -> what goes from where to where (m, n) at the least cost, exactly.

    Successive shortest paths: each round sends as much as fits along the cheapest way through the residual graph.
    """
    rest, want, price = supply.tolist(), demand.tolist(), cost.tolist()
    flow = [[0.0] * len(want) for _ in rest]
    while max(rest) > 1e-12 and max(want) > 1e-12:
        end, before = _cheapest_way(rest, want, price, flow)
        way = [end]
        while (previous := before[way[-1]]) is not None:
            way.append(previous)
        edges = [(a, b) for b, a in pairwise(way)]
        m = len(rest)
        back = [flow[b][a - m] for a, b in edges if a >= m]
        amount = min([rest[way[-1]], want[end - m], *back])
        for a, b in edges:
            if a < m:
                flow[a][b - m] += amount
            else:
                flow[b][a - m] -= amount
        rest[way[-1]] -= amount
        want[end - m] -= amount
    return torch.tensor(flow, dtype=torch.float64)


def _cheapest_way(
    rest: list[float], want: list[float], price: list[list[float]], flow: list[list[float]]
) -> tuple[int, list[int | None]]:
    """Bellman-Ford over sources 0..m-1 and sinks m..m+n-1 -> the sink that is reached most cheaply, and each node's last."""
    m, n = len(rest), len(want)
    far = [0.0 if amount > 1e-12 else float("inf") for amount in rest] + [float("inf")] * n
    before: list[int | None] = [None] * (m + n)
    changed = True
    while changed:
        changed = False
        for i in range(m):
            for j in range(n):
                if far[i] + price[i][j] < far[m + j] - 1e-9:
                    far[m + j], before[m + j], changed = far[i] + price[i][j], i, True
                if flow[i][j] > 1e-12 and far[m + j] - price[i][j] < far[i] - 1e-9:
                    far[i], before[i], changed = far[m + j] - price[i][j], m + j, True
    return min((m + j for j in range(n) if want[j] > 1e-12), key=far.__getitem__), before
