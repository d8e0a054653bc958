"""Heun's method: each step uses the mean of the slopes at t and at the end s of an Euler step.

With c = alpha + sigma and tau = sigma / c,

    xs / c_s = xt / c_t + (tau_s - tau_t) / 2 * ((noise - x0) at t + (noise - x0) at s)

It is algorithm 1 of Karras et al. 2022, "Elucidating the Design Space of Diffusion-Based Generative Models", in another
variable. The paper integrates d(x / alpha) = noise * d(sigma / alpha), which is infinite at alpha = 0. For any scale c,

    d(x / c) = x0 * d(alpha / c) + noise * d(sigma / c)

c = alpha + sigma makes the two weights add up to 1, so that every schedule becomes a rectified flow in tau,

    d(x / c) = (noise - x0) * dtau

which is finite from pure noise to data and does not depend on the schedule's scale. Near the data it is the paper's
variable.
"""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor

from diffusion_train.diffusion.schedule.base import Schedule
from diffusion_train.sampler.base import Level, Predict, Sampler, noise_levels, predict_at
from diffusion_train.utils.rng import Rng


class Heun(Sampler):
    """Second-order sampler with two predictions per step; the last step is Euler's and needs only one."""

    family = "euler"

    def __call__(self, predict: Predict, schedule: Schedule, noise: Tensor, times: Tensor, rng: Rng) -> Tensor:
        levels = noise_levels(schedule, times, noise.device)
        x = levels[0].sigma * noise
        for t, s in pairwise(levels):
            p = predict_at(predict, x, t)
            x = s.alpha * p.x0 + s.sigma * p.noise
            if s is not levels[-1]:
                q = predict_at(predict, x, s)
                change = (q.noise - q.x0) - (p.noise - p.x0)
                x = x + 0.5 * (s.alpha + s.sigma) * (_tau(s) - _tau(t)) * change
        return x / levels[-1].alpha


def _tau(level: Level) -> float:
    return level.sigma / (level.alpha + level.sigma)
