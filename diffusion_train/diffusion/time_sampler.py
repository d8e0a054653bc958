"""Time samplers: which noise levels are trained, as inverse distribution functions from a uniform u in [0, 1) to t.

Logit-normal: Esser et al. 2024, section 3.1. Log-normal: Karras et al. 2022, table 1. Stratified: Kingma et al. 2021,
"Variational Diffusion Models", appendix I.1.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from diffusion_train.diffusion.schedule.base import Schedule
from diffusion_train.diffusion.schedule.discrete import DiscreteSchedule
from diffusion_train.utils.rng import Rng
from diffusion_train.utils.tensor import to_device

SMALLEST = 1e-7  # smallest time: the squares of smaller noise levels are 0 in float32


class TimeSampler(ABC):
    """Distribution of the training times, given by its inverse distribution function."""

    @abstractmethod
    def __call__(self, u: Tensor) -> Tensor:
        """Return t (B,) in (0, 1], which must increase with u (B,) in [0, 1)."""

    def draw(self, rng: Rng, device: torch.device | str = "cpu") -> Tensor:
        """Return the times (B,) of a batch.

        They are computed on the CPU, so that they do not depend on the device, and in float64 before rounding: in
        float32 the last bit of a function depends on the position of a number in its tensor.
        """
        return to_device(self(rng.uniform("time").double()).float(), device)

    def on(self, schedule: Schedule) -> TimeSampler:
        """Return this sampler with the settings that it takes from `schedule`, if they are not given."""
        return self

    def conflicts(self, schedule: Schedule) -> list[str]:
        """Return why this part cannot be used with `schedule`, each with its remedy; empty if it can."""
        return []


class Uniform(TimeSampler):
    """Times uniform in [t_min, 1]; without `t_min`, from the smallest time of the process's schedule."""

    def __init__(self, t_min: float | None = None) -> None:
        if t_min is not None and not SMALLEST <= t_min < 1:
            raise ValueError(
                f"Uniform: t_min={t_min:g} must lie between {SMALLEST:g} and 1; at t = 0 there is no noise"
            )
        self.t_min = t_min

    def __call__(self, u: Tensor) -> Tensor:
        t_min = Schedule.t_min if self.t_min is None else self.t_min
        return t_min + (1 - t_min) * u

    def on(self, schedule: Schedule) -> TimeSampler:
        return Uniform(schedule.t_min) if self.t_min is None else self


class Discrete(TimeSampler):
    """Times (i + 1) / N of a discrete schedule with N steps, all equally likely."""

    def __init__(self, num_steps: int = 1000) -> None:
        if num_steps < 1:
            raise ValueError(f"Discrete: num_steps={num_steps} must be at least 1")
        self.num_steps = num_steps

    def __call__(self, u: Tensor) -> Tensor:
        return (torch.floor(u * self.num_steps) + 1) / self.num_steps

    def conflicts(self, schedule: Schedule) -> list[str]:
        if not isinstance(schedule, DiscreteSchedule) or schedule.num_steps == self.num_steps:
            return []
        conflict = (
            f"time sampler Discrete has num_steps={self.num_steps}, but diffusion.schedule.num_steps="
            f"{schedule.num_steps}: they must be equal; set only diffusion.schedule.num_steps, which the "
            "sampler follows by default"
        )
        return [conflict]


class LogitNormal(TimeSampler):
    """Times with logit(t) ~ N(mean, std^2), most of them in the middle of [0, 1]."""

    def __init__(self, mean: float = 0.0, std: float = 1.0) -> None:
        self.mean, self.std = mean, _check_std("LogitNormal", std)

    def __call__(self, u: Tensor) -> Tensor:
        return torch.sigmoid(self.mean + self.std * _normal_quantile(u)).clamp(min=SMALLEST)


class LogNormal(TimeSampler):
    """Times with ln(sigma / alpha) ~ N(mean, std^2), clamped to the schedule's noise levels."""

    def __init__(self, schedule: Schedule, mean: float = -1.2, std: float = 1.2) -> None:
        self.schedule = schedule
        self.mean, self.std = mean, _check_std("LogNormal", std)

    def __call__(self, u: Tensor) -> Tensor:
        return self.schedule.t_at(-2 * (self.mean + self.std * _normal_quantile(u)))

    def conflicts(self, schedule: Schedule) -> list[str]:
        t = torch.linspace(schedule.t_min, 1, 16)
        if torch.equal(self.schedule.log_snr(t), schedule.log_snr(t)):
            return []
        conflict = (
            f"time sampler LogNormal must have the schedule of the process, {type(schedule).__name__}, got "
            f"{type(self.schedule).__name__}; use diffusion.time_sampler.schedule=${{diffusion.schedule}}"
        )
        return [conflict]


class Stratified(TimeSampler):
    """Times of another sampler, spread evenly over the global batch: the same distribution with lower variance."""

    def __init__(self, time_sampler: TimeSampler) -> None:
        self.time_sampler = time_sampler

    def __call__(self, u: Tensor) -> Tensor:
        return self.time_sampler(u)

    def draw(self, rng: Rng, device: torch.device | str = "cpu") -> Tensor:
        return to_device(self(rng.stratified("time").double()).float(), device)

    def on(self, schedule: Schedule) -> TimeSampler:
        return Stratified(self.time_sampler.on(schedule))

    def conflicts(self, schedule: Schedule) -> list[str]:
        return self.time_sampler.conflicts(schedule)


def _normal_quantile(u: Tensor) -> Tensor:
    """Return the standard normal quantile of u; u = 0 counts as 2^-25, half of the smallest u above, to stay finite."""
    quantile: Tensor = torch.special.ndtri(u.clamp(min=2**-25))
    return quantile


def _check_std(name: str, std: float) -> float:
    if not 0 < std <= 10:
        raise ValueError(f"{name}: std={std:g} must lie between 0 and 10")
    return std
