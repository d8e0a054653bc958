"""Schedules, samplers, and data whose exact denoiser is known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import pytest
import torch
from torch import Tensor

from diffusion_train.diffusion.process import Prediction
from diffusion_train.diffusion.schedule.base import Schedule
from diffusion_train.diffusion.schedule.cosine import Cosine
from diffusion_train.diffusion.schedule.edm import EDM
from diffusion_train.diffusion.schedule.linear import Linear
from diffusion_train.diffusion.schedule.rectified_flow import RectifiedFlow
from diffusion_train.diffusion.schedule.scaled_linear import ScaledLinear
from diffusion_train.diffusion.schedule.sigmoid import Sigmoid
from diffusion_train.sampler.base import Predict, Sampler
from diffusion_train.sampler.ddim import DDIM
from diffusion_train.sampler.dpm_solver import DPMSolver
from diffusion_train.sampler.euler import Euler
from diffusion_train.sampler.grid import Uniform
from diffusion_train.sampler.heun import Heun
from diffusion_train.sampler.unipc import UniPC

SCHEDULES = {
    "linear": Linear(),
    "linear_ztsnr": Linear(zero_terminal_snr=True),
    "scaled_linear": ScaledLinear(),
    "cosine": Cosine(),
    "sigmoid": Sigmoid(),
    "flow": RectifiedFlow(),
    "flow_shift_3": RectifiedFlow(shift=3.0),
    "edm": EDM(),
}
SAMPLERS: dict[str, Callable[[int], Sampler]] = {
    "ddpm": lambda n: DDIM(n, Uniform(), eta=1.0),
    "ddim_eta_half": lambda n: DDIM(n, Uniform(), eta=0.5),
    "ddim": lambda n: DDIM(n, Uniform()),
    "euler": lambda n: Euler(n, Uniform()),
    "heun": lambda n: Heun(n, Uniform()),
    "dpm_solver": lambda n: DPMSolver(n, Uniform()),
    "unipc": lambda n: UniPC(n, Uniform()),
}


@cache
def level(schedule: Schedule, time: float) -> tuple[float, float]:
    alpha, sigma = schedule.alpha_sigma(torch.tensor([time]))
    return alpha.item(), sigma.item()


@dataclass(frozen=True)
class Gaussian:
    """Data N(mean, std^2), independent elements."""

    mean: float = 0.4
    std: float = 0.3

    def predictor(self, schedule: Schedule) -> Predict:
        def predict(xt: Tensor, t: Tensor) -> Prediction:
            alpha, sigma = level(schedule, t[0].item())  # samplers give all rows one time
            z = (xt - alpha * self.mean) / (alpha**2 * self.std**2 + sigma**2)
            return Prediction(x0=self.mean + alpha * self.std**2 * z, noise=sigma * z)

        return predict

    def solution(self, schedule: Schedule, noise: Tensor, times: Tensor) -> Tensor:
        """Where the exact flow carries sigma * noise from the first to the last of `times`, over alpha."""
        alpha, sigma = (v.double() for v in schedule.alpha_sigma(times[[0, -1]]))
        std = (alpha**2 * self.std**2 + sigma**2).sqrt()
        z = (sigma[0] * noise - alpha[0] * self.mean) / std[0]
        return self.mean + std[1] / alpha[1] * z


@pytest.fixture
def gaussian() -> Gaussian:
    return Gaussian()


@pytest.fixture(params=SCHEDULES)
def schedule(request: pytest.FixtureRequest) -> Schedule:
    return SCHEDULES[request.param]


@pytest.fixture(params=SAMPLERS)
def make_sampler(request: pytest.FixtureRequest) -> Callable[[int], Sampler]:
    return SAMPLERS[request.param]
