"""Heun's second-order method (Karras et al. 2022, "Elucidating the Design Space", algorithm 1) on the straight path.

The paper integrates d(x / alpha) = noise * d(sigma / alpha), which is infinite at alpha = 0. Of all scalings of x,

    d(x / c) = x0 * d(alpha / c) + noise * d(sigma / c)

c = alpha + sigma makes the two weights add to 1, so that every schedule becomes a rectified flow in tau = sigma / c,

    d(x / c) = (noise - x0) * dtau

finite from pure noise to data, unchanged by the schedule's scale, and near the data the paper's own variable.
"""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor

from diffusion_train.diffusion.schedule.base import Schedule
from diffusion_train.sampler.base import Level, Predict, Sampler, noise_levels, predict_at
from diffusion_train.utils.rng import Rng


class Heun(Sampler):
    """Two predictions a step, but one in a step to t = 0, which is Euler's: 2 * num_steps - 1 in all."""

    def __call__(self, predict: Predict, schedule: Schedule, noise: Tensor, times: Tensor, rng: Rng) -> Tensor:
        levels = noise_levels(schedule, times, noise.device)
        x = levels[0].sigma * noise
        for t, s in pairwise(levels):
            p = predict_at(predict, x, t)
            x = s.alpha * p.x0 + s.sigma * p.noise
            if s.sigma > 0:
                q = predict_at(predict, x, s)
                change = (q.noise - q.x0) - (p.noise - p.x0)
                x = x + 0.5 * (s.alpha + s.sigma) * (_tau(s) - _tau(t)) * change
        return x / levels[-1].alpha


def _tau(level: Level) -> float:
    return level.sigma / (level.alpha + level.sigma)
