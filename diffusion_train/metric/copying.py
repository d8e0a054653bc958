"""Copy detection: is a sample closer to a training image than images that training never saw?

Held-out images of the same distribution are the references. The p value of a sample is its rank among their distances
to the nearest training image, a conformal p value (Vovk, Gammerman, Shafer 2005): of images drawn like the held-out
ones, at most a fraction `false_alarm` has a p value of `false_alarm` or less, for any distance measure. With several
measures, the smallest p value is multiplied by their number (Bonferroni).

Distances are relative: the distance to the nearest training image divided by the distance to the second nearest. If all
images of a set are alike, a small distance says little, but a copy is much closer to one image than to all others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction
from typing import NamedTuple

import torch
from scipy.special import bdtrc
from torch import Tensor
from torch.nn import functional as F


class Nearest(NamedTuple):
    """The nearest neighbour of each of N rows: its distance (N,) and its row (N,)."""

    distance: Tensor
    row: Tensor


class Audit(NamedTuple):
    """The p value of each sample (N,), whether it is flagged (N,), and the thresholds by measure.

    `false_alarm` is the rate in effect, which is higher than the requested one if there are too few references for it.
    """

    p: Tensor
    flagged: Tensor
    thresholds: dict[str, float]
    false_alarm: float
    num_references: int


def cosine_distance(rows: Tensor, others: Tensor) -> Tensor:
    """Return 1 - cosine similarity (N, M) of rows (N, D) and others (M, D), in float64."""
    return 1 - F.normalize(rows.double()) @ F.normalize(others.double()).T


def nearest(distances: Tensor) -> Nearest:
    """Return the nearest column of each row of distances (N, M); of equal distances the first."""
    row = distances.argmin(1)
    return Nearest(distances.gather(1, row[:, None])[:, 0], row)


def relative(distances: Tensor, resolution: float) -> Nearest:
    """Return the distance to the nearest divided by that to the second nearest, for distances (N, M), M >= 2.

    `resolution` is added to both, so that with two equally near images neither counts as copied.
    """
    first, second = distances.double().topk(2, dim=1, largest=False).values.unbind(1)
    return Nearest((first + resolution) / (second + resolution), nearest(distances).row)


def without_itself(distances: Tensor) -> Tensor:
    """Return the distances (N, N) within a set, with an infinite diagonal."""
    return distances.double().masked_fill(torch.eye(len(distances), dtype=torch.bool), math.inf)


def ranks(distances: Tensor, references: Tensor) -> Tensor:
    """Return the rank (N,), from 1, of each of distances (N,) among those (n,) of images not trained on."""
    nearer = torch.searchsorted(references.double().sort().values, distances.double().contiguous(), right=True)
    return 1 + nearer


def audit(distances: Mapping[str, Tensor], references: Mapping[str, Tensor], false_alarm: float) -> Audit:
    """Flag samples that are too close to a training image.

    By the name of the measure, `distances` (N,) are those of the samples to the nearest training image, `references`
    (n,) those of held-out images. Ranks are compared as whole numbers, because rounded p values miss the rate itself.
    """
    num_measures, num_references = len(distances), len(next(iter(references.values())))
    rate = max(_exact(false_alarm), Fraction(num_measures, num_references + 1))
    last_flagged = math.floor(rate * (num_references + 1) / num_measures)
    rank = torch.stack([ranks(distances[name], references[name]) for name in distances]).min(0).values
    p = (rank.double() * num_measures / (num_references + 1)).clamp(max=1.0)
    thresholds = {name: threshold(references[name], last_flagged) for name in distances}
    return Audit(p, rank <= last_flagged, thresholds, float(rate), num_references)


def threshold(references: Tensor, rank: int) -> float:
    """Return the distance below which a sample has at most this rank among references (n,): infinite if rank > n."""
    return float(references.double().sort().values[rank - 1]) if rank <= len(references) else math.inf


def references_needed(false_alarm: float, num_measures: int) -> int:
    """Return the smallest number of references with which a sample can be flagged at this rate."""
    return math.ceil(num_measures / _exact(false_alarm)) - 1


def chance(num_flagged: int, num_samples: int, false_alarm: float) -> float:
    """Return the probability of `num_flagged` or more false alarms of independent samples: a binomial tail."""
    return float(bdtrc(num_flagged - 1, num_samples, false_alarm))


def _exact(rate: float) -> Fraction:
    """Return the decimal number that a rate was written as: 0.05 is 1/20, which no float is."""
    return Fraction(str(rate))
