"""Grids: the times a sampler visits, num_steps + 1 of them in float32, falling from noise to data (0).

Trailing and leading: Lin et al. 2023, "Common Diffusion Noise Schedules and Sample Steps Are Flawed", table 2.
Karras: Karras et al. 2022, "Elucidating the Design Space of Diffusion-Based Generative Models", equation 5.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from diffusion_train.diffusion.schedule.base import Schedule


class Grid(ABC):
    @abstractmethod
    def __call__(self, schedule: Schedule, num_steps: int) -> Tensor:
        """times (num_steps + 1,), strictly falling; all but the last are noise levels that the schedule knows."""


class Uniform(Grid):
    """Equal steps in t from 1 to `last`."""

    def __init__(self, last: float = 0.0) -> None:
        if not 0 <= last < 1:
            raise ValueError(f"grid.last={last}: must be in [0, 1)")
        self.last = last

    def __call__(self, schedule: Schedule, num_steps: int) -> Tensor:
        times = torch.linspace(1, self.last, num_steps + 1, dtype=torch.float64)
        lowest = min(times[:-1].tolist())
        if lowest < schedule.t_min * (1 - 1e-9):
            raise ValueError(
                f"sampler.num_steps={num_steps}: the grid's time {lowest:.2g} lies below the schedule's least noise "
                f"level {schedule.t_min:.2g}; use fewer steps or the grid Karras"
            )
        return times.float()


class Trailing(Grid):
    """Equal steps rounded to the levels of a model trained on `num_levels` of them; the first is pure noise."""

    def __init__(self, num_levels: int = 1000) -> None:
        self.num_levels = num_levels

    def __call__(self, schedule: Schedule, num_steps: int) -> Tensor:
        _check_levels(num_steps, self.num_levels)
        levels = torch.linspace(self.num_levels, 0, num_steps + 1, dtype=torch.float64).round()
        return (levels / self.num_levels).float()


class Leading(Grid):
    """Every (num_levels // num_steps)-th level from the data's end, as older models are sampled; begins below t = 1.

    `offset` is the `steps_offset` of diffusers: 1 for Stable Diffusion 1 and 2.
    """

    def __init__(self, num_levels: int = 1000, offset: int = 0) -> None:
        self.num_levels = num_levels
        self.offset = offset

    def __call__(self, schedule: Schedule, num_steps: int) -> Tensor:
        _check_levels(num_steps, self.num_levels)
        indices = torch.arange(num_steps - 1, -1, -1) * (self.num_levels // num_steps) + self.offset
        times = (indices.double() + 1) / self.num_levels
        return torch.cat([times, times.new_zeros(1)]).float()


class Karras(Grid):
    """Equal steps in (sigma / alpha)^(1 / rho) from t = 1 to the schedule's least noise level, then 0.

    A schedule whose alpha is 0 at t = 1 has no such grid: ValueError.
    """

    def __init__(self, rho: float = 7.0) -> None:
        self.rho = rho

    def __call__(self, schedule: Schedule, num_steps: int) -> Tensor:
        if schedule.zero_terminal_snr:
            raise ValueError(
                f"grid Karras with {type(schedule).__name__}: sigma / alpha has no greatest value where alpha(1) = 0; "
                "use the grid Uniform or Trailing"
            )
        ends = torch.tensor([1.0, schedule.t_min])
        first, last = (-schedule.log_snr(ends).double() / 2 / self.rho).exp()
        root = torch.lerp(first, last, torch.linspace(0, 1, num_steps, dtype=torch.float64))
        times = schedule.t_at((-2 * self.rho * root.log()).float())
        times[0] = 1.0
        return torch.cat([times, times.new_zeros(1)])


def _check_levels(num_steps: int, num_levels: int) -> None:
    if num_steps > num_levels:
        raise ValueError(f"sampler.num_steps={num_steps}: more than the grid's num_levels={num_levels}")
