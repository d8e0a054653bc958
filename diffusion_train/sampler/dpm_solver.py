"""DPM-Solver++ (2M): each step uses x0 extrapolated to the middle of the step.

With h = lambda_s - lambda_t and `before` the level before t,

    xs = sigma_s / sigma_t * xt + (alpha_s - sigma_s / sigma_t * alpha_t) * x0_mid
    x0_mid = x0 + h / (2 * h_before) * (x0 - x0_before),   h_before = lambda_t - lambda_before

Lu et al. 2022, "DPM-Solver++: Fast Solver for Guided Sampling", algorithm 2.
"""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

from torch import Tensor

from diffusion_train.diffusion.schedule.base import Schedule
from diffusion_train.sampler.base import Level, Predict, Sampler, move, noise_levels, predict_at
from diffusion_train.utils.rng import Rng


class DPMSolver(Sampler):
    """Second-order sampler with one prediction per step.

    A step is first order if it is the first one, the one after a start from pure noise (alpha = 0), ends at t = 0, or
    is more than twice as long as the one before (h > 2 h_before).
    """

    family = "multistep"

    def __call__(self, predict: Predict, schedule: Schedule, noise: Tensor, times: Tensor, rng: Rng) -> Tensor:
        levels = noise_levels(schedule, times, noise.device)
        x = levels[0].sigma * noise
        before, x0_before = replace(levels[0], alpha=0.0), noise  # stands for "no step before": its lambda is -inf
        for t, s in pairwise(levels):
            x0 = predict_at(predict, x, t).x0
            x = move(x, midpoint(x0, x0_before, before, t, s), t, s)
            before, x0_before = t, x0
        return x / levels[-1].alpha


def midpoint(x0: Tensor, x0_before: Tensor, before: Level, t: Level, s: Level) -> Tensor:
    """Return x0 (B, ...) in the middle of the step t -> s, extrapolated linearly in lambda from the last two levels.

    It is x0 at t if the step is first order.
    """
    h = s.half_log_snr - t.half_log_snr
    h_before = t.half_log_snr - before.half_log_snr
    if is_first_order(h, h_before):
        return x0
    return x0 + 0.5 * h / h_before * (x0 - x0_before)


def is_first_order(h: float, h_before: float) -> bool:
    """Return whether a step of length h in lambda has nothing to extrapolate from, or would extrapolate too far.

    Lengths are infinite for steps from pure noise or to data.
    """
    return not math.isfinite(h) or not math.isfinite(h_before) or h > 2 * h_before
