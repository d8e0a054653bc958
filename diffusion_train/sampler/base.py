"""Samplers: plain loops over times from noise to data that call `predict` and never see a network.

Every update goes from xt at time t to xs at time s < t. x0 and noise are the predictions at t, xt = alpha_t * x0 +
sigma_t * noise, and lambda = ln(alpha / sigma) is half of the log-SNR. The formulas hold for any schedule, whether or
not alpha^2 + sigma^2 = 1, including alpha = 0 at t = 1 and sigma = 0 at t = 0.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from diffusion_train.diffusion.process import Prediction
from diffusion_train.diffusion.schedule.base import Schedule
from diffusion_train.sampler.grid import Family, Grid, Uniform
from diffusion_train.utils.rng import Rng
from diffusion_train.utils.tensor import expand

Predict = Callable[[Tensor, Tensor], Prediction]  # (xt (B, ...), t (B,)) -> x0 and noise


class Sampler(ABC):
    """Turns noise into data in `num_steps` steps over the times of `grid`, by default equal steps in t.

    `family` chooses among the grids of a pretrained model.
    `clip_x0` clamps every predicted x0 to [-1, 1]; use it for models of pixels, never for latents.
    """

    family: ClassVar[Family] = "single_step"

    def __init__(self, num_steps: int, grid: Grid | None = None, clip_x0: bool = False) -> None:
        if num_steps < 1:
            raise ValueError(f"sampler.num_steps={num_steps}: must be at least 1")
        self.num_steps = num_steps
        self.grid = (grid or Uniform()).for_family(self.family)
        self.clip_x0 = clip_x0

    @torch.no_grad()
    def sample(self, predict: Predict, schedule: Schedule, noise: Tensor, rng: Rng) -> Tensor:
        """Turn noise (B, ...) ~ N(0, 1) into data (B, ...). Row j depends only on its noise and its key of `rng`.

        `schedule` is that of `predict`; to reproduce diffusers it is `grid.on` of the schedule of training.
        """
        predict = clipped(predict, schedule) if self.clip_x0 else predict
        times = self.grid(schedule, self.num_steps)
        start, end = noise_levels(schedule, times[[0, -1]], noise.device)
        x = self(predict, schedule, noise / start.sigma if self.grid.unit_start else noise, times, rng)
        return x * end.alpha if self.grid.as_is else x

    @abstractmethod
    def __call__(self, predict: Predict, schedule: Schedule, noise: Tensor, times: Tensor, rng: Rng) -> Tensor:
        """Step noise (B, ...) through the decreasing `times` (num_steps + 1,); return x / alpha (B, ...) at the last.

        That is x0 if the last time is 0. Implementations must not call `predict` at the last time, which may be
        below the schedule's smallest.
        """


@dataclass(frozen=True)
class Level:
    """One noise level of a grid; alpha and sigma are plain numbers because all rows share them."""

    time: Tensor  # scalar, on the device of the samples
    alpha: float
    sigma: float

    @property
    def half_log_snr(self) -> float:
        """Return lambda = ln(alpha / sigma): -inf for pure noise, inf for data."""
        if self.alpha == 0:
            return -math.inf
        return math.inf if self.sigma == 0 else math.log(self.alpha / self.sigma)


def noise_levels(schedule: Schedule, times: Tensor, device: torch.device) -> list[Level]:
    """Return the n levels at times (n,)."""
    alpha, sigma = schedule.alpha_sigma(times)
    return [Level(*level) for level in zip(times.to(device), alpha.tolist(), sigma.tolist(), strict=True)]


def predict_at(predict: Predict, x: Tensor, level: Level) -> Prediction:
    """Return the prediction for x (B, ...), whose rows are all at `level`."""
    return predict(x, level.time.expand(len(x)))


def move(x: Tensor, x0: Tensor, t: Level, s: Level) -> Tensor:
    """Return xs = sigma_s / sigma_t * x + (alpha_s - sigma_s / sigma_t * alpha_t) * x0, all (B, ...).

    This is the exact step from t to s if the predicted data is `x0` all the way: d(x / sigma) = x0 * d(alpha / sigma).
    It is finite at alpha_t = 0 and at sigma_s = 0.
    """
    decay = s.sigma / t.sigma
    return decay * x + (s.alpha - decay * t.alpha) * x0


def clipped(predict: Predict, schedule: Schedule) -> Predict:
    """Return `predict` with x0 clamped to [-1, 1] and the noise that keeps xt = alpha * x0 + sigma * noise."""

    def predict_clipped(xt: Tensor, t: Tensor) -> Prediction:
        alpha, sigma = (expand(v, xt) for v in schedule.alpha_sigma(t))
        x0 = predict(xt, t).x0.clamp(-1, 1)
        return Prediction(x0=x0, noise=(xt - alpha * x0) / sigma)

    return predict_clipped
