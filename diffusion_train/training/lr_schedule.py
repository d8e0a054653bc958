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
        return min(1.0, (step + 1) / (self.warmup_steps + 1))


@dataclass(frozen=True)
class Linear(Constant):
    """Linear warm-up, then a straight line down to `final` at `num_steps`."""

    final: float = 0.0

    def __call__(self, step: int) -> float:
        progress = (step - self.warmup_steps) / max(1, self.num_steps - self.warmup_steps)
        return super().__call__(step) * (self.final + (1 - self.final) * self.height(min(1.0, max(0.0, progress))))

    def height(self, progress: float) -> float:
        """From 1 to 0 on the way to the horizon, of which `progress` is done."""
        return 1 - progress


@dataclass(frozen=True)
class Cosine(Linear):
    """Linear warm-up, then half a cosine down to `final` at `num_steps`. Loshchilov and Hutter 2017, "SGDR"."""

    def height(self, progress: float) -> float:
        return (1 + math.cos(math.pi * progress)) / 2


@dataclass(frozen=True)
class InverseSqrt(Constant):
    """Linear warm-up, constant to `constant_steps`, then as 1 / sqrt(step): needs no horizon, so a run may end any time.

    Karras et al. 2024, "Analyzing and Improving the Training Dynamics of Diffusion Models", equation 67. `num_steps`
    only says how long a run is by default.
    """

    constant_steps: int = 1

    def __call__(self, step: int) -> float:
        return super().__call__(step) / math.sqrt(max(1.0, step / max(1, self.constant_steps)))
