"""The learning rate as a factor of `optimizer.lr`, by optimizer step; `num_steps` is its own horizon.

Stopping earlier or later than the horizon, by steps or by time, changes no step before; after it the last factor stays.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Constant:
    """Linear warm-up, then constant. `num_steps` only says how long a run is by default."""

    num_steps: int
    warmup_steps: int = 0

    def __call__(self, step: int) -> float:
        return _warmup(step, self.warmup_steps)


@dataclass(frozen=True)
class Cosine:
    """Linear warm-up, then half a cosine down to `final` at `num_steps`. Loshchilov and Hutter 2017, "SGDR"."""

    num_steps: int
    warmup_steps: int = 0
    final: float = 0.0

    def __call__(self, step: int) -> float:
        wave = (1 + math.cos(math.pi * _progress(step, self.warmup_steps, self.num_steps))) / 2
        return _warmup(step, self.warmup_steps) * (self.final + (1 - self.final) * wave)


@dataclass(frozen=True)
class Linear:
    """Linear warm-up, then a straight line down to `final` at `num_steps`."""

    num_steps: int
    warmup_steps: int = 0
    final: float = 0.0

    def __call__(self, step: int) -> float:
        line = 1 - _progress(step, self.warmup_steps, self.num_steps)
        return _warmup(step, self.warmup_steps) * (self.final + (1 - self.final) * line)


@dataclass(frozen=True)
class InverseSqrt:
    """Linear warm-up, constant to `constant_steps`, then as 1 / sqrt(step): needs no horizon, so a run may end any time.

    Karras et al. 2024, "Analyzing and Improving the Training Dynamics of Diffusion Models", equation 67. `num_steps`
    only says how long a run is by default.
    """

    num_steps: int
    warmup_steps: int = 0
    constant_steps: int = 1

    def __call__(self, step: int) -> float:
        return _warmup(step, self.warmup_steps) / math.sqrt(max(1.0, step / max(1, self.constant_steps)))


def _warmup(step: int, warmup_steps: int) -> float:
    return min(1.0, (step + 1) / (warmup_steps + 1))


def _progress(step: int, warmup_steps: int, num_steps: int) -> float:
    return min(1.0, max(0.0, (step - warmup_steps) / max(1, num_steps - warmup_steps)))
