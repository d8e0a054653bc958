"""DDIM and DDPM: one update rule for any alpha and sigma, with fresh noise z ~ N(0, 1) at each step.

    xs = alpha_s * x0 + sqrt(sigma_s^2 - (eta * std)^2) * noise + eta * std * z
    std = sigma_s / sigma_t * sqrt(sigma_t^2 - (alpha_t / alpha_s * sigma_s)^2)

Song et al. 2021, "Denoising Diffusion Implicit Models", equations 12 and 16. eta = 1 is DDPM's ancestral sampler for
any subset of times (Ho et al. 2020, equations 6 and 7, where std^2 is the posterior variance). eta = 0 is Euler's
method for rectified flow, and for EDM in the paper's own variables.
"""

from __future__ import annotations

import math

from torch import Tensor

from diffusion_train.diffusion.schedule.base import Schedule
from diffusion_train.sampler.base import Level, Predict, Sampler, noise_levels, predict_at
from diffusion_train.sampler.grid import Grid
from diffusion_train.utils.rng import Rng


class DDIM(Sampler):
    """DDIM. `eta` in [0, 1] is the fraction of the posterior's standard deviation drawn anew: 0 none, 1 all (DDPM)."""

    def __init__(self, num_steps: int, grid: Grid | None = None, clip_x0: bool = False, eta: float = 0.0) -> None:
        super().__init__(num_steps, grid, clip_x0)
        if not 0 <= eta <= 1:
            raise ValueError(f"sampler.eta={eta}: must be in [0, 1]")
        self.eta = eta

    def __call__(self, predict: Predict, schedule: Schedule, noise: Tensor, times: Tensor, rng: Rng) -> Tensor:
        starts, ends = (noise_levels(schedule, part, noise.device) for part in (times[:-1], self.grid.ends(times)))
        x = starts[0].sigma * noise
        for i, (t, s) in enumerate(zip(starts, ends, strict=True)):
            p = predict_at(predict, x, t)
            fresh = self.eta * posterior_std(t, s)
            x = s.alpha * p.x0 + math.sqrt(s.sigma**2 - fresh**2) * p.noise
            if fresh > 0:
                x = x + fresh * rng.normal(f"step{i}", noise.shape[1:], noise.device)
        return x / ends[-1].alpha


def posterior_std(t: Level, s: Level) -> float:
    """Return the standard deviation of xs given xt and x0; it is at most sigma_s, even after rounding."""
    forward_variance = max(t.sigma**2 - (t.alpha / s.alpha * s.sigma) ** 2, 0.0)  # of xt given xs
    return s.sigma * min(math.sqrt(forward_variance) / t.sigma, 1.0)
