"""Compares two settings by pairs of rounds that follow one another, so that what slows the machine slows both."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from statistics import median

Round = Callable[[], float]  # runs some steps and returns the seconds of one

CONFIDENCE = 0.95
MARGIN = 0.01  # by which processes of equal settings may differ, in all rounds
_ENOUGH = 6  # pairs whose smallest and largest ratio bound the median with that confidence


@dataclass(frozen=True)
class Comparison:
    """How much faster a setting is than the present one: one ratio of speeds for each pair of rounds."""

    ratios: tuple[float, ...]

    @property
    def gain(self) -> float:
        """The median gain in speed, as a fraction; 0 is no gain."""
        return median(self.ratios) - 1

    @property
    def interval(self) -> tuple[float, float]:
        """The interval that contains the true median of the gain with at least 95 % confidence.

        It lies between the k-th smallest and the k-th largest ratio, which assumes nothing about the noise; infinite
        if there are too few pairs.
        """
        ordered, k = sorted(self.ratios), rank(len(self.ratios))
        return (ordered[k - 1] - 1, ordered[-k] - 1) if k else (-math.inf, math.inf)

    @property
    def is_gain(self) -> bool:
        return self.interval[0] > MARGIN


def rank(count: int) -> int:
    """Return the largest k for which `count` values bound their median by the k-th smallest and largest; 0 for none.

    The median lies outside if fewer than k of them are below it, or above it: 2 * sum(C(n, i), i < k) / 2^n.
    """
    tails = accumulate(math.comb(count, i) for i in range(count))
    return sum(2 * tail <= (1 - CONFIDENCE) * 2**count for tail in tails)


def compare(present: Round, other: Round, num_rounds: int) -> Comparison:
    """Run pairs of rounds, each in the opposite order of the one before; stop early if `other` is slower in all."""
    ratios: list[float] = []
    for number in range(num_rounds):
        if number % 2:
            seconds, before = other(), present()
        else:
            before, seconds = present(), other()
        ratios.append(before / seconds)
        if len(ratios) >= _ENOUGH and max(ratios) < 1:
            break
    return Comparison(tuple(ratios))
