"""Gaussian data, whose exact denoiser and flow are known."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from diffusion_train.diffusion.schedule.linear import Linear
from diffusion_train.diffusion.schedule.scaled_linear import ScaledLinear
from diffusion_train.diffusion.schedule.sigmoid import Sigmoid
from diffusion_train.sampler.base import move, noise_levels, predict_at
from diffusion_train.sampler.ddim import DDIM
from diffusion_train.sampler.dpm_solver import DPMSolver
from diffusion_train.sampler.euler import Euler
from diffusion_train.sampler.grid import Karras, Leading, Uniform
from diffusion_train.sampler.heun import Heun
from diffusion_train.sampler.unipc import UniPC
from diffusion_train.utils.rng import Rng

DETERMINISTIC = [DDIM, Euler, Heun, DPMSolver, UniPC]
RNG = Rng.for_samples([0, 1])


@pytest.mark.parametrize("grid", [Uniform(), Karras()], ids=["uniform", "karras"])
@pytest.mark.parametrize("make", DETERMINISTIC)
def test_mean_and_spread(make, grid, schedule, gaussian):
    """The exact denoiser makes the sampler an affine map of the noise: where 0 and 1 go are its mean and spread."""
    if isinstance(grid, Karras) and schedule.zero_terminal_snr:
        pytest.skip("Karras has no grid for zero terminal SNR")
    noise = torch.tensor([[0.0], [1.0]])
    at_zero, at_one = make(50, grid).sample(gaussian.predictor(schedule), schedule, noise, RNG).flatten().tolist()
    assert at_zero == pytest.approx(gaussian.mean, abs=0.01)
    assert at_one - at_zero == pytest.approx(gaussian.std, rel=0.15 if make in (DDIM, Euler) else 0.09)


@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_mean_and_spread_with_fresh_noise(eta, schedule, gaussian):
    rng = Rng.for_samples(range(4))
    x = DDIM(100, Uniform(), eta=eta).sample(gaussian.predictor(schedule), schedule, rng.normal("start", (5000,)), rng)
    standard_error = gaussian.std / math.sqrt(x.numel())
    assert x.mean().item() == pytest.approx(gaussian.mean, abs=4 * standard_error + 0.005)
    assert x.std().item() == pytest.approx(gaussian.std, rel=0.15)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_noise_level_is_kept_at_any_eta(eta, schedule, gaussian):
    """Where x0 is known exactly, xt is N(alpha * x0, sigma^2) after any number of steps: no error but chance's."""
    point = replace(gaussian, std=0.0)
    rng = Rng.for_samples(range(4))
    times = torch.linspace(1, 0.3, 5)
    x = DDIM(4, Uniform(), eta=eta)(point.predictor(schedule), schedule, rng.normal("start", (5000,)), times, rng)
    alpha, sigma = (v.item() for v in schedule.alpha_sigma(times[-1:]))
    assert x.std().item() == pytest.approx(sigma / alpha, rel=4 / math.sqrt(2 * x.numel()))


@pytest.mark.parametrize("ratio", [1.9, 2.1])
@pytest.mark.parametrize("make", [DPMSolver, UniPC])
def test_a_step_more_than_twice_the_one_before_is_first_order(make, ratio, gaussian):
    """Two steps of lengths 1 and `ratio` in lambda.

    UniPC's first is corrected, and its second reuses the prediction.
    """
    schedule, noise = Linear(), torch.tensor([[-1.0], [2.0]], dtype=torch.float64)
    times = schedule.t_at(2 * torch.tensor([-2.0, -1.0, ratio - 1.0]))
    predict, (first, t, s) = gaussian.predictor(schedule), noise_levels(schedule, times, noise.device)
    start = first.sigma * noise
    x0 = predict_at(predict, start, first).x0
    half = move(start, x0, first, t)
    x0_after = predict_at(predict, half, t).x0
    half = move(start, (x0 + x0_after) / 2, first, t) if make is UniPC else half
    plain = move(half, x0_after, t, s) / s.alpha
    found = make(2, Uniform())(predict, schedule, noise, times, RNG)
    assert torch.allclose(found, plain, rtol=0, atol=1e-9) == (ratio > 2)


@pytest.mark.parametrize("num_steps", [10, 20])
@pytest.mark.parametrize("make", [DPMSolver, UniPC])
def test_a_grid_for_single_steps_spreads_no_multistep_sampler(make, num_steps, gaussian):
    """Its last step in lambda is four times the one before;
    extrapolated, the samples' variance is 1.2 times the data's.
    """
    noise, grid = torch.tensor([[0.0], [1.0]]), Leading(offset=1, unit_start=True, end_at_level=True)
    x = make(num_steps, grid).sample(gaussian.predictor(ScaledLinear()), ScaledLinear(), noise, RNG)
    assert gaussian.std / 2 < (x[1] - x[0]).item() < gaussian.std


@pytest.mark.parametrize(("make", "order"), [(DDIM, 1), (Heun, 2), (DPMSolver, 2)], ids=["ddim", "heun", "dpm_solver"])
def test_order(make, order, schedule, gaussian):
    assert _order(make, schedule, gaussian) == pytest.approx(order, abs=0.16)


@pytest.mark.parametrize("schedule", ["edm", "flow", "cosine"], indirect=True)
def test_third_order(schedule, gaussian):
    """On the other schedules float32's alpha and sigma drown the error before its order shows."""
    assert _order(UniPC, schedule, gaussian) > 2.75


def _order(make, schedule, gaussian):
    """By what power of the number of steps the error falls."""
    # sigmoid's alpha falls like sqrt(1 - t) at the very end, as its sigma does at the other
    first, last = (0.98, 0.2) if isinstance(schedule, Sigmoid) else (1.0, 0.1)
    noise = torch.tensor([[-1.5], [0.3], [2.0]], dtype=torch.float64)
    errors = []
    for num_steps in (100, 200):
        times = torch.linspace(first, last, num_steps + 1)
        x = make(num_steps, Uniform())(gaussian.predictor(schedule), schedule, noise, times, RNG)
        errors.append((x - gaussian.solution(schedule, noise, times)).abs().max().item())
    return math.log2(errors[0] / errors[1])
