"""Rectified flow and EDM against their papers."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from diffusion_train.diffusion.schedule.edm import EDM
from diffusion_train.diffusion.schedule.rectified_flow import RectifiedFlow


def test_flow_is_a_straight_line() -> None:
    t = torch.linspace(0, 1, 11)
    alpha, sigma = RectifiedFlow().alpha_sigma(t)
    assert torch.equal(alpha, 1 - t)
    assert torch.equal(sigma, t)


def test_shift_is_that_of_stable_diffusion_3() -> None:
    reference = FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=3.0)
    t = torch.arange(1000, 0, -1) / 1000
    alpha, sigma = RectifiedFlow(shift=3.0).alpha_sigma(t)
    torch.testing.assert_close(sigma, reference.sigmas[:1000], rtol=1e-6, atol=0)
    torch.testing.assert_close(alpha, 1 - reference.sigmas[:1000], rtol=0, atol=1e-6)
    torch.testing.assert_close(RectifiedFlow(shift=3.0).label(t), reference.timesteps, rtol=1e-6, atol=0)


def test_shift_moves_log_snr_by_twice_its_log() -> None:
    """Esser et al. 2024: log SNR(t_m) = log SNR(t_n) - 2 log shift."""
    t = torch.linspace(0.01, 0.99, 50)
    expected = RectifiedFlow().log_snr(t) - 2 * math.log(3)
    torch.testing.assert_close(RectifiedFlow(shift=3).log_snr(t), expected, rtol=1e-5, atol=1e-5)


def test_edm_reaches_from_sigma_min_to_sigma_max_evenly_in_the_logarithm() -> None:
    schedule = EDM(sigma_min=0.01, sigma_max=100)
    alpha, sigma = schedule.alpha_sigma(torch.linspace(schedule.t_min, 1, 5))
    torch.testing.assert_close(sigma / alpha, torch.tensor([0.01, 0.1, 1, 10, 100]), rtol=2e-6, atol=0)


def test_edm_scales_data_of_sigma_data_to_unit_variance() -> None:
    alpha, sigma = EDM(sigma_data=0.7).alpha_sigma(torch.linspace(0, 1, 50))
    torch.testing.assert_close((0.7 * alpha) ** 2 + sigma**2, torch.ones(50), rtol=1e-6, atol=0)


def test_edm_label_is_c_noise() -> None:
    t = EDM().t_at(-2 * torch.tensor([0.002, 0.5, 80.0]).log())
    expected = [math.log(s) / 4 for s in (0.002, 0.5, 80.0)]
    torch.testing.assert_close(EDM().label(t), torch.tensor(expected), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("member", "arguments", "message"),
    [
        pytest.param(RectifiedFlow, {"shift": 0}, "shift=0", id="no shift"),
        pytest.param(EDM, {"sigma_min": 0}, "sigma_min=0", id="no smallest sigma"),
        pytest.param(EDM, {"sigma_max": 0.001}, "sigma_max=0.001", id="sigmas reversed"),
        pytest.param(EDM, {"sigma_data": 0}, "sigma_data=0", id="no data"),
    ],
)
def test_impossible_schedules_are_refused(member: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        member(**arguments)
