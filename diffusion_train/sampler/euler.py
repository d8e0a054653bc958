"""Euler's method: each step uses the slope at its start, in d(x / alpha) = noise * d(sigma / alpha).

    xs / alpha_s = xt / alpha_t + (sigma_s / alpha_s - sigma_t / alpha_t) * noise

Karras et al. 2022, "Elucidating the Design Space of Diffusion-Based Generative Models", algorithm 1 without lines
6 to 8. It is the step of DDIM with eta = 0, but the two use different times of a pretrained model, as in diffusers.
`move` is the same step in a form that is finite at alpha = 0.
"""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor

from diffusion_train.diffusion.schedule.base import Schedule
from diffusion_train.sampler.base import Predict, Sampler, move, noise_levels, predict_at
from diffusion_train.utils.rng import Rng


class Euler(Sampler):
    """First-order sampler with one prediction per step."""

    family = "euler"

    def __call__(self, predict: Predict, schedule: Schedule, noise: Tensor, times: Tensor, rng: Rng) -> Tensor:
        levels = noise_levels(schedule, times, noise.device)
        x = levels[0].sigma * noise
        for t, s in pairwise(levels):
            x = move(x, predict_at(predict, x, t).x0, t, s)
        return x / levels[-1].alpha
