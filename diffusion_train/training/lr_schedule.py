"""Learning rate schedules: a factor of `optimizer.lr` for each optimizer step, with the horizon `num_steps`.

The factor of a step does not depend on when the run stops. After the horizon the last factor stays.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from diffusion_train.utils.ranges import at_least


@dataclass(frozen=True)
class Constant:
    """Linear warm-up, then constant. `num_steps` is only the default length of a run."""

    num_steps: int
    warmup_steps: int = 0

    def __post_init__(self) -> None:
        if self.num_steps < 1 or self.warmup_steps < 0:
            raise ValueError(
                f"lr_schedule.num_steps={self.num_steps}, lr_schedule.warmup_steps={self.warmup_steps}: "
                "must be at least 1 and at least 0"
            )

    def __call__(self, step: int) -> float:
        """Return the factor of `optimizer.lr` at a step, from 0."""
        return min(1.0, (step + 1) / (self.warmup_steps + 1))

    def doubts(self, max_steps: int) -> list[str]:
        """Return what keeps a run of `max_steps` steps from learning at `optimizer.lr`."""
        if max_steps == 1 or max_steps > self.warmup_steps:  # one step is a trial
            return []
        doubt = (
            f"lr_schedule.warmup_steps={self.warmup_steps} lasts longer than trainer.max_steps={max_steps}: "
            f"the learning rate reaches {self(max_steps - 1):.2g} of optimizer.lr; give fewer warm-up steps, "
            "or train longer"
        )
        return [doubt]


@dataclass(frozen=True)
class Linear(Constant):
    """Linear warm-up, then a straight line down to `final` at `num_steps`."""

    final: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(0, **{"lr_schedule.final": self.final})

    def __call__(self, step: int) -> float:
        progress = (step - self.warmup_steps) / max(1, self.num_steps - self.warmup_steps)
        return super().__call__(step) * (self.final + (1 - self.final) * self.height(min(1.0, max(0.0, progress))))

    def doubts(self, max_steps: int) -> list[str]:
        if self.final != 0 or max_steps <= self.num_steps:
            return super().doubts(max_steps)
        doubt = (
            f"the learning rate is 0 from step {self.num_steps + 1} to trainer.max_steps={max_steps}, and the run "
            f"learns nothing there; give lr_schedule.num_steps={max_steps}, or lr_schedule.final above 0"
        )
        return [*super().doubts(max_steps), doubt]

    def height(self, progress: float) -> float:
        """Return the height of the decay, from 1 at progress 0 (end of warm-up) to 0 at progress 1 (the horizon)."""
        return 1 - progress


@dataclass(frozen=True)
class Cosine(Linear):
    """Linear warm-up, then half a cosine down to `final` at `num_steps` (Loshchilov and Hutter 2017, "SGDR")."""

    def height(self, progress: float) -> float:
        return (1 + math.cos(math.pi * progress)) / 2


@dataclass(frozen=True)
class InverseSqrt(Constant):
    """Linear warm-up, constant until `constant_steps`, then 1 / sqrt(step). It has no horizon: a run may end anytime.

    Karras et al. 2024, "Analyzing and Improving the Training Dynamics of Diffusion Models", equation 67. `num_steps`
    is only the default length of a run.
    """

    constant_steps: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(0, **{"lr_schedule.constant_steps": self.constant_steps})

    def __call__(self, step: int) -> float:
        return super().__call__(step) / math.sqrt(max(1.0, step / max(1, self.constant_steps)))
