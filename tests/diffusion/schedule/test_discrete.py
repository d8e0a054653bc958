"""Tables against diffusers and the papers."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler
from diffusers.schedulers.scheduling_ddim import rescale_zero_terminal_snr
from torch import Tensor

from diffusion_train.diffusion.schedule.cosine import Cosine
from diffusion_train.diffusion.schedule.discrete import DiscreteSchedule
from diffusion_train.diffusion.schedule.linear import Linear
from diffusion_train.diffusion.schedule.scaled_linear import ScaledLinear
from diffusion_train.diffusion.schedule.sigmoid import Sigmoid

REFERENCES = [
    pytest.param(Linear, {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02}, id="linear"),
    pytest.param(
        ScaledLinear, {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}, id="scaled_linear"
    ),
    pytest.param(Cosine, {"beta_schedule": "squaredcos_cap_v2"}, id="cosine"),
]


def table_times(num_steps: int) -> Tensor:
    return torch.arange(1, num_steps + 1) / num_steps


def alpha_bar(schedule: DiscreteSchedule) -> Tensor:
    return schedule.alpha_sigma(table_times(schedule.num_steps))[0].double() ** 2


@pytest.mark.parametrize(("member", "reference"), REFERENCES)
@pytest.mark.parametrize("num_steps", [1000, 40])
def test_table_is_that_of_diffusers(member: Any, reference: dict[str, Any], num_steps: int) -> None:
    expected = DDPMScheduler(num_train_timesteps=num_steps, **reference).alphas_cumprod.double()
    # its products are taken in float32, ours in float64
    torch.testing.assert_close(alpha_bar(member(num_steps=num_steps)), expected, rtol=5e-5, atol=0)


@pytest.mark.parametrize(("member", "reference"), REFERENCES)
def test_zero_terminal_snr_is_that_of_diffusers(member: Any, reference: dict[str, Any]) -> None:
    betas = rescale_zero_terminal_snr(DDPMScheduler(**reference).betas.double())
    schedule = member(zero_terminal_snr=True)
    torch.testing.assert_close(alpha_bar(schedule), (1 - betas).cumprod(0), rtol=2e-4, atol=1e-12)
    assert alpha_bar(schedule)[-1] == 0
    torch.testing.assert_close(alpha_bar(schedule)[0], alpha_bar(member())[0])


def test_cosine_is_the_papers_formula_before_the_clip() -> None:
    t = table_times(1000)[:990]
    f = torch.cos((t.double() + 0.008) / 1.008 * math.pi / 2) ** 2
    torch.testing.assert_close(
        alpha_bar(Cosine())[:990], f / math.cos(0.008 / 1.008 * math.pi / 2) ** 2, rtol=2e-4, atol=0
    )


@pytest.mark.parametrize(("start", "end", "tau"), [(-3, 3, 1.0), (0, 3, 0.3), (-3, 3, 1.1)])
def test_sigmoid_is_the_papers_formula_before_the_clip(start: float, end: float, tau: float) -> None:
    def gamma(t: float) -> float:
        v_start, v_end = 1 / (1 + math.exp(-start / tau)), 1 / (1 + math.exp(-end / tau))
        return (v_end - 1 / (1 + math.exp(-(t * (end - start) + start) / tau))) / (v_end - v_start)

    expected = torch.tensor([gamma(i / 1000) for i in range(1, 990)], dtype=torch.float64)
    torch.testing.assert_close(alpha_bar(Sigmoid(start=start, end=end, tau=tau))[:989], expected, rtol=1e-6, atol=0)


def test_table_points_are_exact_to_the_last_bit_of_float32() -> None:
    bars = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)
    alpha, sigma = Linear().alpha_sigma(table_times(1000))
    torch.testing.assert_close(alpha, bars.sqrt().float(), rtol=6e-8, atol=0)
    torch.testing.assert_close(sigma, (1 - bars).sqrt().float(), rtol=6e-8, atol=0)


@pytest.mark.parametrize("num_steps", [2, 7, 1000, 4000])
def test_label_is_the_index(num_steps: int) -> None:
    schedule = Linear(num_steps, 1e-4, 0.02)
    assert torch.equal(schedule.label(table_times(num_steps)), torch.arange(num_steps).float())
    half_way = schedule.label((table_times(num_steps) - 0.5 / num_steps).double())
    torch.testing.assert_close(half_way, torch.arange(num_steps) - 0.5, rtol=0, atol=1e-3)


def test_between_table_points_log_alpha_bar_is_linear() -> None:
    schedule = Linear(num_steps=4, beta_start=0.1, beta_end=0.4)
    log_alpha = schedule.alpha_sigma(torch.linspace(0, 1, 13))[0].log()
    corners = torch.tensor([0, *torch.log1p(-torch.tensor([0.1, 0.2, 0.3, 0.4])).cumsum(0) / 2])
    expected = torch.stack(
        [corners[:-1], (2 * corners[:-1] + corners[1:]) / 3, (corners[:-1] + 2 * corners[1:]) / 3], 1
    )
    torch.testing.assert_close(log_alpha, torch.cat([expected.flatten(), corners[-1:]]), rtol=1e-5, atol=1e-6)


def test_towards_zero_terminal_snr_alpha_falls_in_a_line() -> None:
    alpha, _ = Linear(zero_terminal_snr=True).alpha_sigma(torch.tensor([0.999, 0.99925, 0.9995, 0.99975, 1.0]))
    torch.testing.assert_close(alpha / alpha[0], torch.tensor([1, 0.75, 0.5, 0.25, 0]), rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    ("member", "arguments", "message"),
    [
        pytest.param(Linear, {"num_steps": 0}, "num_steps=0", id="no steps"),
        pytest.param(Cosine, {"num_steps": 1, "zero_terminal_snr": True}, "num_steps=1", id="one step"),
        pytest.param(Linear, {"beta_end": 1.2}, "1.2", id="beta above 1"),
        pytest.param(Linear, {"beta_start": -0.1}, "-0.1", id="beta below 0"),
        pytest.param(ScaledLinear, {"beta_start": -0.1}, "beta_start=-0.1", id="root of a negative"),
        pytest.param(Cosine, {"max_beta": 1.5}, "between 0 and 1", id="no clip"),
        pytest.param(Sigmoid, {"start": 3}, "start=3", id="no range"),
        pytest.param(Sigmoid, {"tau": 0}, "tau=0", id="no temperature"),
    ],
)
def test_impossible_tables_are_refused(member: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        member(**arguments)
