"""DPM-Solver++ (2M): Lu et al. 2022, "DPM-Solver++: Fast Solver for Guided Sampling", algorithm 2."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

from torch import Tensor

from diffusion_train.diffusion.schedule.base import Schedule
from diffusion_train.sampler.base import Level, Predict, Sampler, move, noise_levels, predict_at
from diffusion_train.utils.rng import Rng


class DPMSolver(Sampler):
    """Second order with one prediction a step; first order in a step from pure noise or to t = 0."""

    def __call__(self, predict: Predict, schedule: Schedule, noise: Tensor, times: Tensor, rng: Rng) -> Tensor:
        levels = noise_levels(schedule, times, noise.device)
        x = levels[0].sigma * noise
        before, x0_before = replace(levels[0], alpha=0.0), noise  # pure noise, before which nothing is known
        for t, s in pairwise(levels):
            x0 = predict_at(predict, x, t).x0
            x = move(x, midpoint(x0, x0_before, before, t, s), t, s)
            before, x0_before = t, x0
        return x / levels[-1].alpha


def midpoint(x0: Tensor, x0_before: Tensor, before: Level, t: Level, s: Level) -> Tensor:
    """x0 in the middle of the step t -> s, on the line in lambda = ln(alpha / sigma) through the last two levels.

    Where lambda is infinite (an end of the step, or the level before, is pure noise or data) it is x0 at t.
    """
    h = s.half_log_snr - t.half_log_snr
    h_before = t.half_log_snr - before.half_log_snr
    if not math.isfinite(h) or not math.isfinite(h_before):
        return x0
    return x0 + 0.5 * h / h_before * (x0 - x0_before)
