"""What a sampler is: a plain loop over times from noise to data that sees `predict` and never a network.

Every formula in this folder holds for any schedule, scaled or not, with alpha = 0 at t = 1 and sigma = 0 at t = 0.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from diffusion_train.diffusion.process import Prediction
from diffusion_train.diffusion.schedule.base import Schedule
from diffusion_train.sampler.grid import Grid, Uniform
from diffusion_train.utils.rng import Rng
from diffusion_train.utils.tensor import expand

Predict = Callable[[Tensor, Tensor], Prediction]  # (xt (B, ...), t (B,)) -> x0 and noise


class Sampler(ABC):
    """Turns noise into data in `num_steps` steps over the times of `grid`, by default equal steps in t.

    `clip_x0` holds every predicted x0 in [-1, 1]: for models of pixels, never for latents.
    """

    def __init__(self, num_steps: int, grid: Grid | None = None, clip_x0: bool = False) -> None:
        if num_steps < 1:
            raise ValueError(f"sampler.num_steps={num_steps}: must be at least 1")
        self.num_steps = num_steps
        self.grid = grid or Uniform()
        self.clip_x0 = clip_x0

    @torch.no_grad()
    def sample(self, predict: Predict, schedule: Schedule, noise: Tensor, rng: Rng) -> Tensor:
        """noise (B, ...) ~ N(0, 1) -> data (B, ...). Row j depends on its own noise and its own key of `rng` alone."""
        predict = clipped(predict, schedule) if self.clip_x0 else predict
        times = self.grid(schedule, self.num_steps)
        start, end = noise_levels(schedule, times[[0, -1]], noise.device)
        x = self(predict, schedule, noise / start.sigma if self.grid.unit_start else noise, times, rng)
        return x * end.alpha if self.grid.as_is else x

    @abstractmethod
    def __call__(self, predict: Predict, schedule: Schedule, noise: Tensor, times: Tensor, rng: Rng) -> Tensor:
        """noise (B, ...) -> x / alpha at the last of `times` (num_steps + 1,), which fall: x0 where that is 0.

        Predict is never called at the last time.
        """


@dataclass(frozen=True)
class Level:
    """One noise level of a grid; alpha and sigma are plain numbers, for all rows share them."""

    time: Tensor  # scalar, on the device of the samples
    alpha: float
    sigma: float

    @property
    def half_log_snr(self) -> float:
        """lambda = ln(alpha / sigma): -inf for pure noise, inf for data."""
        if self.alpha == 0:
            return -math.inf
        return math.inf if self.sigma == 0 else math.log(self.alpha / self.sigma)


def noise_levels(schedule: Schedule, times: Tensor, device: torch.device) -> list[Level]:
    """times (n,) -> n levels."""
    alpha, sigma = schedule.alpha_sigma(times)
    return [Level(*level) for level in zip(times.to(device), alpha.tolist(), sigma.tolist(), strict=True)]


def predict_at(predict: Predict, x: Tensor, level: Level) -> Prediction:
    return predict(x, level.time.expand(len(x)))


def move(x: Tensor, x0: Tensor, t: Level, s: Level) -> Tensor:
    """x at level t -> x at level s, were `x0` the data all the way.

    x / sigma changes by x0 * d(alpha / sigma), which is finite at alpha = 0 and, multiplied out, at sigma_s = 0.
    """
    decay = s.sigma / t.sigma
    return decay * x + (s.alpha - decay * t.alpha) * x0


def clipped(predict: Predict, schedule: Schedule) -> Predict:
    """`predict` with x0 held in [-1, 1], and the noise that goes with it."""

    def predict_clipped(xt: Tensor, t: Tensor) -> Prediction:
        alpha, sigma = (expand(v, xt) for v in schedule.alpha_sigma(t))
        x0 = predict(xt, t).x0.clamp(-1, 1)
        return Prediction(x0=x0, noise=(xt - alpha * x0) / sigma)

    return predict_clipped
