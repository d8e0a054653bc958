"""Is a sample nearer to a training image than an image can be that training never saw?

Held-out images of the same kind say how near that is. A sample's p value is its rank among their distances to the nearest
training image (a conformal p value: Vovk, Gammerman, Shafer 2005): of images that are drawn like the held-out ones, at most
a share `false_alarm` has a p value of `false_alarm` or less, whatever the measure of distance. Where several measures are
looked at, the smallest p value counts so many times (Bonferroni).

Distances are relative: how far the nearest training image is, as a share of how far the second nearest is. In a set whose
images are all alike, nearness by itself says little; a copy is far nearer to one of them than to all others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class Nearest(NamedTuple):
    """Of each row: the distance to the nearest of the others, and which it is."""

    distance: Tensor
    row: Tensor


class Audit(NamedTuple):
    """Of each sample (N,): p value, which measure found it, and whether it is flagged; thresholds by measure.

    `false_alarm` is the rate that holds: more than was asked for where there are too few references for it.
    """

    p: Tensor
    flagged: Tensor
    thresholds: dict[str, float]
    false_alarm: float
    num_references: int


def cosine_distance(rows: Tensor, others: Tensor) -> Tensor:
    """(N, D), (M, D) -> 1 - cosine (N, M), float64."""
    return 1 - F.normalize(rows.double()) @ F.normalize(others.double()).T


def nearest(distances: Tensor) -> Nearest:
    """(N, M) -> (N,) and (N,); of equally near ones the first."""
    row = distances.argmin(1)
    return Nearest(distances.gather(1, row[:, None])[:, 0], row)


def relative(distances: Tensor, resolution: float) -> Nearest:
    """(N, M), M >= 2 -> the distance to the nearest as a share of that to the second nearest.

    Differences below `resolution` are none, so that of two equally near ones neither counts as copied.
    """
    first, second = distances.double().topk(2, dim=1, largest=False).values.unbind(1)
    return Nearest((first + resolution) / (second + resolution), nearest(distances).row)


def without_itself(distances: Tensor) -> Tensor:
    """(N, N) of a set to itself, in which nobody is near to itself."""
    return distances.double().masked_fill(torch.eye(len(distances), dtype=torch.bool), math.inf)


def p_values(distances: Tensor, references: Tensor) -> Tensor:
    """(N,) distances, (n,) distances of images that were not trained on -> (N,): low where a sample is nearer than they."""
    nearer = torch.searchsorted(references.double().sort().values, distances.double().contiguous(), right=True)
    return (1 + nearer) / (len(references) + 1)


def audit(distances: Mapping[str, Tensor], references: Mapping[str, Tensor], false_alarm: float) -> Audit:
    """Distances (N,) of samples and (n,) of references to their nearest training image, by the name of the measure."""
    num_references = len(next(iter(references.values())))
    rate = max(false_alarm, len(distances) / (num_references + 1))
    p = torch.stack([p_values(distances[name], references[name]) for name in distances]).min(0).values
    p = (p * len(distances)).clamp(max=1.0)
    thresholds = {name: threshold(references[name], rate / len(distances)) for name in distances}
    return Audit(p, p <= rate + 1e-12, thresholds, rate, num_references)


def threshold(references: Tensor, rate: float) -> float:
    """Nearer than this is flagged: the k-th smallest of n references with k = rate (n + 1); infinite where k > n."""
    rank = math.floor(rate * (len(references) + 1) + 1e-9)
    return float(references.double().sort().values[rank - 1]) if rank <= len(references) else math.inf


def references_needed(false_alarm: float, num_measures: int) -> int:
    """With fewer, nothing could ever be flagged at this rate."""
    return math.ceil(num_measures / false_alarm - 1e-9) - 1


def chance(num_flagged: int, num_samples: int, false_alarm: float) -> float:
    """The probability of so many or more false alarms, if samples were independent: a binomial tail."""
    terms = (
        math.comb(num_samples, k) * false_alarm**k * (1 - false_alarm) ** (num_samples - k)
        for k in range(num_flagged, num_samples + 1)
    )
    return min(1.0, math.fsum(terms))
