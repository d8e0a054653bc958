"""Grids: the num_steps + 1 times that a sampler visits, in float32, decreasing from noise to data (0).

Trailing, leading and linspace: Lin et al. 2023, "Common Diffusion Noise Schedules and Sample Steps Are Flawed",
table 2.
Karras: Karras et al. 2022, "Elucidating the Design Space of Diffusion-Based Generative Models", equation 5.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Literal

import torch
from torch import Tensor

from diffusion_train.diffusion.schedule.base import Schedule
from diffusion_train.sampler.between_levels import LinearSigma, LogSNRLabel, finite_sigma

Family = Literal["single_step", "multistep", "euler"]
"""The samplers that share a grid in diffusers: DDIM, those that extrapolate from earlier steps, and Euler and Heun."""


class Grid(ABC):
    """The times that a sampler visits, and how it treats the first and the last of them."""

    unit_start: bool = False
    """Whether x starts as noise of unit variance instead of sigma times the noise."""

    as_is: bool = False
    """Whether x at the last time is returned as it is, not divided by alpha."""

    @abstractmethod
    def __call__(self, schedule: Schedule, num_steps: int) -> Tensor:
        """Return strictly decreasing times (num_steps + 1,); all but the last must be at least the schedule's t_min."""

    def ends(self, times: Tensor) -> Tensor:
        """Return the times (num_steps,) where the steps of DDIM end;
        the next step starts at its time in `times` anyway.
        """
        return times[1:]

    def for_family(self, family: Family) -> Grid:
        """Return the grid for a family of samplers."""
        return self

    def on(self, schedule: Schedule) -> Schedule:
        """Return the schedule to sample with, which may differ from `schedule` between the levels of its table."""
        return schedule


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
                f"sampler.num_steps={num_steps}: the grid's time {lowest:.2g} is below the schedule's smallest time "
                f"{schedule.t_min:.2g}; use fewer steps or the grid Karras"
            )
        return times.float()


class BySampler(Grid):
    """A grid for each family of samplers, as diffusers has them; without `euler`, that is `single_step`.

    Multistep samplers need steps of similar size in lambda, also at the end.
    """

    def __init__(self, single_step: Grid, multistep: Grid, euler: Grid | None = None) -> None:
        self.grids: dict[Family, Grid] = {
            "single_step": single_step,
            "multistep": multistep,
            "euler": euler or single_step,
        }

    def __call__(self, schedule: Schedule, num_steps: int) -> Tensor:
        return self.grids["single_step"](schedule, num_steps)

    def for_family(self, family: Family) -> Grid:
        return self.grids[family].for_family(family)


class Levels(Grid):
    """A subset of the `num_levels` discrete training levels; index i is the time (i + 1) / num_levels.

    The flags reproduce how diffusers samples. `unit_start`: x starts as noise of unit variance. `end_at_level`:
    sampling ends at index 0 and returns x with the little noise left in it (`set_alpha_to_one=False`). `skip_last`:
    indices are computed for one more step and the least noisy one is dropped, as the multistep solvers do.
    `fixed_stride`: DDIM steps num_levels // num_steps levels down, also if the next index is another one. `finite`:
    with zero terminal SNR, sigma / alpha at t = 1 is large instead of infinite, as all schedulers but DDIM have it.
    """

    as_is = True  # alpha is 1 at t = 0

    def __init__(
        self,
        num_levels: int = 1000,
        unit_start: bool = False,
        end_at_level: bool = False,
        skip_last: bool = False,
        fixed_stride: bool = False,
        finite: bool = False,
    ) -> None:
        self.num_levels, self.finite = num_levels, finite
        self.unit_start, self.end_at_level = unit_start, end_at_level
        self.skip_last, self.fixed_stride = skip_last, fixed_stride

    def __call__(self, schedule: Schedule, num_steps: int) -> Tensor:
        if num_steps + self.skip_last > self.num_levels:
            raise ValueError(
                f"sampler.num_steps={num_steps} must be at most {self.num_levels - self.skip_last} on a grid with "
                f"num_levels={self.num_levels}; use fewer steps"
            )
        indices = self.indices(num_steps + self.skip_last)[:num_steps].double()
        if indices[0] >= self.num_levels:
            raise ValueError(f"sampler.num_steps={num_steps} is too large for a grid with an offset; use fewer steps")
        last = torch.tensor([self.end_at_level - 1.0], dtype=torch.float64)
        times = ((torch.cat([indices, last]) + 1) / self.num_levels).float()
        times[-1] = self.ends(times)[-1]
        return times

    def ends(self, times: Tensor) -> Tensor:
        if not self.fixed_stride:
            return times[1:]
        stride = self.num_levels // (len(times) - 1)
        indices = (times[:-1].double() * self.num_levels).round() - 1 - stride
        return ((indices.clamp(min=self.end_at_level - 1) + 1) / self.num_levels).float()

    def on(self, schedule: Schedule) -> Schedule:
        return finite_sigma(schedule, self.num_levels) if self.finite else schedule

    @abstractmethod
    def indices(self, num_steps: int) -> Tensor:
        """Return the level indices (num_steps,), decreasing from noise to data, rounded as in diffusers."""


class Trailing(Levels):
    """Equal steps rounded to levels; the first is the noisiest level, t = 1."""

    def indices(self, num_steps: int) -> Tensor:
        step = self.num_levels - self.num_levels / num_steps - self.num_levels  # as numpy.arange rounds, for ties at .5
        return (self.num_levels + torch.arange(num_steps, dtype=torch.float64) * step).round() - 1


class Linspace(Levels):
    """Equal steps from the noisiest level to the least noisy one, both included.

    With `whole=False` indices are not rounded, and sigma / alpha is linear between levels, as in diffusers' Euler.
    """

    def __init__(
        self,
        num_levels: int = 1000,
        unit_start: bool = False,
        end_at_level: bool = False,
        skip_last: bool = False,
        fixed_stride: bool = False,
        finite: bool = False,
        whole: bool = True,
    ) -> None:
        super().__init__(num_levels, unit_start, end_at_level, skip_last, fixed_stride, finite)
        self.whole = whole

    def indices(self, num_steps: int) -> Tensor:
        most = max(num_steps - 1, 1)
        steps = torch.arange(most, -1, -1, dtype=torch.float64) * ((self.num_levels - 1) / most)
        return steps.round() if self.whole else steps

    def on(self, schedule: Schedule) -> Schedule:
        schedule = super().on(schedule)
        return schedule if self.whole else LinearSigma(schedule, self.num_levels)


class Leading(Levels):
    """Every (num_levels // num_steps)-th level from the data, as older models are sampled; it starts below t = 1.

    `offset` is the `steps_offset` of diffusers: 1 for Stable Diffusion 1 and 2.
    """

    def __init__(
        self,
        num_levels: int = 1000,
        offset: int = 0,
        unit_start: bool = False,
        end_at_level: bool = False,
        skip_last: bool = False,
        fixed_stride: bool = False,
        finite: bool = False,
    ) -> None:
        super().__init__(num_levels, unit_start, end_at_level, skip_last, fixed_stride, finite)
        self.offset = offset

    def indices(self, num_steps: int) -> Tensor:
        return torch.arange(num_steps - 1, -1, -1) * (self.num_levels // num_steps) + self.offset


class Karras(Grid):
    """Equal steps in (sigma / alpha)^(1 / rho) from t = 1 to the schedule's t_min, then 0.

    With rho = null, the limit of large rho, steps are equal in log(sigma / alpha). `model` is the grid of a pretrained
    model, which these levels replace: x starts as with that grid, Euler's method keeps its first and last level, and
    the network receives time labels as diffusers computes them, for multistep samplers whole ones.

    Raises ValueError for a schedule with alpha = 0 at t = 1, where sigma / alpha is infinite.
    """

    def __init__(self, rho: float | None = 7.0, model: Grid | None = None) -> None:
        if rho is not None and not 0 < rho < math.inf:
            raise ValueError(f"grid.rho={rho}: must be positive; use rho=null for equal steps in log(sigma / alpha)")
        self.rho, self.model = rho, model
        self.unit_start = model is not None and model.unit_start
        self.family: Family = "single_step"

    def for_family(self, family: Family) -> Grid:
        grid = Karras(self.rho, self.model and self.model.for_family(family))
        grid.family = family
        return grid

    def on(self, schedule: Schedule) -> Schedule:
        return schedule if self.model is None else LogSNRLabel(schedule, whole=self.family == "multistep")

    def __call__(self, schedule: Schedule, num_steps: int) -> Tensor:
        if schedule.zero_terminal_snr:
            raise ValueError(
                f"grid Karras cannot be used with {type(schedule).__name__}: sigma / alpha is infinite at t = 1, where "
                "alpha = 0; use the grid Uniform or Trailing"
            )
        ends = torch.tensor([1.0, schedule.t_min])
        if self.model is not None and self.family == "euler":
            ends = self.model(schedule, num_steps)[[0, -2]]
        part = torch.linspace(0, 1, num_steps, dtype=torch.float64)
        first, last = -schedule.log_snr(ends).double() / 2
        if self.rho is None:
            log_sigma = torch.lerp(first, last, part)
        else:
            log_sigma = self.rho * torch.lerp((first / self.rho).exp(), (last / self.rho).exp(), part).log()
        times = schedule.t_at((-2 * log_sigma).float())
        times[-1], times[0] = ends[1], ends[0]
        return torch.cat([times, times.new_zeros(1)])
