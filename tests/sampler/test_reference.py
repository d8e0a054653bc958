"""The same network, times and noise in diffusers' schedulers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    UniPCMultistepScheduler,
)

from diffusion_train.diffusion.parameterization import Epsilon, Flow
from diffusion_train.diffusion.process import GaussianDiffusion
from diffusion_train.diffusion.schedule.linear import Linear
from diffusion_train.diffusion.schedule.rectified_flow import RectifiedFlow
from diffusion_train.diffusion.time_sampler import Uniform as UniformTimes
from diffusion_train.diffusion.weighting import Output
from diffusion_train.sampler.ddim import DDIM
from diffusion_train.sampler.dpm_solver import DPMSolver
from diffusion_train.sampler.grid import Leading, Trailing, Uniform
from diffusion_train.sampler.heun import Heun
from diffusion_train.sampler.unipc import UniPC
from diffusion_train.utils.rng import Rng

LINEAR = GaussianDiffusion(Linear(), Epsilon(), Output(), UniformTimes())
FLOW = GaussianDiffusion(RectifiedFlow(), Flow(), Output(), UniformTimes())
RNG = Rng.for_samples([3, 4])
NOISE = RNG.normal("start", (2, 8))
SIGMA_1 = LINEAR.schedule.alpha_sigma(torch.ones(1))[1]  # where ours starts; theirs takes 1 for it
BETAS = {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02, "num_train_timesteps": 1000}

each_num_steps = pytest.mark.parametrize("num_steps", [10, 20, 50])


def two_points(diffusion):
    """The network that knows that every element of the data is -0.7 or 0.5, with some width."""

    def network(x, label):
        t = (label.reshape(-1, 1, 1) + (diffusion is LINEAR)) / 1000
        alpha, sigma = diffusion.schedule.alpha_sigma(t)
        variance = sigma**2 + (0.2 * alpha) ** 2
        points = torch.tensor([-0.7, 0.5]).reshape(2, 1, 1, 1)
        weights = (-((x - alpha * points) ** 2) / (2 * variance)).softmax(0)
        posterior = points + 0.04 * alpha / variance * (x - alpha * points)
        x0 = (weights * posterior).sum(0)
        noise = (x - alpha * x0) / sigma
        return noise if diffusion is LINEAR else noise - x0

    return network


def ours(sampler, diffusion, times=None):
    network = two_points(diffusion)

    def predict(x, t):
        return diffusion.predict(network, x, t)

    if times is None:
        return sampler.sample(predict, diffusion.schedule, NOISE, RNG)
    return sampler(predict, diffusion.schedule, NOISE, times, RNG)


def theirs(scheduler, diffusion, start=NOISE, **step_arguments):
    network = two_points(diffusion)
    x = start
    for i, index in enumerate(scheduler.timesteps):
        fresh = {name: argument(i) for name, argument in step_arguments.items()}
        x = scheduler.step(network(x, index.float().expand(len(x))), index, x, **fresh).prev_sample
    return x


def fresh_noise(i):
    return RNG.normal(f"step{i}", NOISE.shape[1:])


@each_num_steps
@pytest.mark.parametrize(
    ("grid", "eta"),
    [(Trailing(), 0.0), (Trailing(), 0.5), (Leading(), 0.0)],
    ids=["trailing", "trailing_eta_half", "leading"],
)
def test_ddim(grid, eta, num_steps):
    spacing = "trailing" if isinstance(grid, Trailing) else "leading"
    scheduler = DDIMScheduler(**BETAS, clip_sample=False, timestep_spacing=spacing)
    scheduler.set_timesteps(num_steps)
    first = grid(LINEAR.schedule, num_steps)[:1]
    start = LINEAR.schedule.alpha_sigma(first)[1] * NOISE
    reference = theirs(scheduler, LINEAR, start, eta=lambda i: eta, variance_noise=fresh_noise)
    torch.testing.assert_close(ours(DDIM(num_steps, grid, eta=eta), LINEAR), reference, rtol=0, atol=1e-4)


@each_num_steps
def test_ddpm(num_steps, monkeypatch):
    scheduler = DDPMScheduler(**BETAS, clip_sample=False, timestep_spacing="trailing")
    scheduler.set_timesteps(num_steps)
    draws = iter([fresh_noise(i) for i in range(num_steps)])
    monkeypatch.setattr("diffusers.schedulers.scheduling_ddpm.randn_tensor", lambda *_, **__: next(draws))
    reference = theirs(scheduler, LINEAR, SIGMA_1 * NOISE)
    torch.testing.assert_close(ours(DDIM(num_steps, Trailing(), eta=1.0), LINEAR), reference, rtol=0, atol=1e-4)


@each_num_steps
def test_dpm_solver(num_steps):
    scheduler = DPMSolverMultistepScheduler(**BETAS, timestep_spacing="trailing", final_sigmas_type="zero")
    scheduler.set_timesteps(num_steps)
    reference = theirs(scheduler, LINEAR, SIGMA_1 * NOISE)
    torch.testing.assert_close(ours(DPMSolver(num_steps, Trailing()), LINEAR), reference, rtol=0, atol=1e-4)


@each_num_steps
def test_unipc(num_steps):
    scheduler = UniPCMultistepScheduler(**BETAS, timestep_spacing="trailing", final_sigmas_type="zero")
    scheduler.set_timesteps(num_steps)
    reference = theirs(scheduler, LINEAR, SIGMA_1 * NOISE)
    torch.testing.assert_close(ours(UniPC(num_steps, Trailing()), LINEAR), reference, rtol=0, atol=1e-4)


@each_num_steps
def test_flow_euler_is_ddim(num_steps):
    scheduler = FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(sigmas=np.linspace(1, 1 / num_steps, num_steps))
    reference = theirs(scheduler, FLOW)
    torch.testing.assert_close(ours(DDIM(num_steps, Uniform()), FLOW), reference, rtol=0, atol=1e-5)


@each_num_steps
def test_flow_heun(num_steps):
    scheduler = FlowMatchHeunDiscreteScheduler()
    scheduler.set_timesteps(num_steps)
    times = scheduler.sigmas.unique().flip(0)  # theirs has each level between twice
    reference = theirs(scheduler, FLOW)
    torch.testing.assert_close(ours(Heun(num_steps, Uniform()), FLOW, times), reference, rtol=0, atol=1e-5)
