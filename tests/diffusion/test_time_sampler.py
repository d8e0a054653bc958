from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from diffusion_train.diffusion.parameterization import X0, Flow, V
from diffusion_train.diffusion.process import GaussianDiffusion
from diffusion_train.diffusion.schedule.edm import EDM
from diffusion_train.diffusion.schedule.linear import Linear
from diffusion_train.diffusion.schedule.rectified_flow import RectifiedFlow
from diffusion_train.diffusion.time_sampler import Discrete, LogitNormal, LogNormal, Stratified, TimeSampler, Uniform
from diffusion_train.diffusion.weighting import Output, Velocity
from diffusion_train.utils.rng import Rng

MEMBERS = [
    pytest.param(Uniform(), id="uniform"),
    pytest.param(Discrete(1000), id="discrete"),
    pytest.param(LogitNormal(), id="logit_normal"),
    pytest.param(LogitNormal(mean=1, std=3), id="logit_normal_wide"),
    pytest.param(LogitNormal(mean=-3, std=10), id="logit_normal_widest"),
    pytest.param(LogNormal(EDM()), id="log_normal"),
    pytest.param(LogNormal(Linear()), id="log_normal_linear"),
    pytest.param(Stratified(LogitNormal()), id="stratified"),
]
EVEN = (torch.arange(4000) + 0.5) / 4000


@pytest.mark.parametrize("sampler", MEMBERS)
def test_times_rise_with_u_and_stay_in_range(sampler: TimeSampler) -> None:
    t = sampler(torch.cat([torch.zeros(1), EVEN, torch.tensor([1 - 2**-24])]))
    assert t.dtype == torch.float32
    assert (t[1:] >= t[:-1]).all()
    assert t[0] > 0
    assert t[-1] <= 1


def test_uniform_is_uniform_from_t_min_to_one() -> None:
    assert Uniform(t_min=0.2)(torch.tensor([0.0, 0.5, 1.0])).tolist() == pytest.approx([0.2, 0.6, 1])


@pytest.mark.parametrize("num_steps", [2, 50, 1000, 4000])
def test_uniform_begins_at_the_least_noisy_level_of_its_schedule(num_steps: int) -> None:
    schedule = Linear(num_steps)
    for sampler, first in ((Uniform(), 1 / num_steps), (Stratified(Uniform()), 1 / num_steps), (Uniform(0.6), 0.6)):
        t = GaussianDiffusion(schedule, V(), Output(), sampler).time_sampler(torch.zeros(1))
        assert t.item() == pytest.approx(first)
        assert schedule.label(t).item() == pytest.approx(first * num_steps - 1, abs=1e-4)


@pytest.mark.parametrize("parameterization", [X0(), V(), Flow()], ids=["x0", "v", "flow"])
@pytest.mark.parametrize("weighting", [Output(), Velocity(1.0, 20.0)], ids=["output", "velocity"])
@pytest.mark.parametrize("std", [5.0, 10.0])
def test_the_loss_is_finite_at_every_time_of_a_wide_logit_normal(
    parameterization: Any, weighting: Any, std: float
) -> None:
    diffusion = GaussianDiffusion(RectifiedFlow(), parameterization, weighting, LogitNormal(std=std))
    t = diffusion.time_sampler(torch.tensor([0.0, 2**-24, 0.01, 0.99, 1 - 2**-24]))
    noise = torch.ones(5, 2)
    loss = diffusion.loss_at(lambda x, label: 0.5 * x, torch.zeros(5, 2), noise, t)
    assert loss.loss.isfinite().all()
    assert loss.noise_mse[:-1].isfinite().all()


@pytest.mark.parametrize("num_steps", [1, 3, 1000, 1025])
def test_discrete_takes_every_index_equally_often(num_steps: int) -> None:
    u = (torch.arange(4 * num_steps) + 0.5) / (4 * num_steps)
    index = Discrete(num_steps)(u).mul(num_steps).round().long() - 1
    assert torch.equal(index.bincount(), torch.full((num_steps,), 4))
    assert Discrete(num_steps)(torch.tensor([1 - 2**-24])).item() == 1


def test_logit_normal_has_the_papers_density() -> None:
    """Share of times below x = Phi((logit(x) - mean) / std)."""
    t = LogitNormal(mean=0.4, std=1.3)(EVEN)
    for x in (0.1, 0.5, 0.9):
        expected = 0.5 * (1 + math.erf((math.log(x / (1 - x)) - 0.4) / 1.3 / math.sqrt(2)))
        assert (t < x).float().mean().item() == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("schedule", [EDM(sigma_min=1e-4), Linear()], ids=["edm", "linear"])
def test_log_normal_levels_have_their_mean_and_spread(schedule: Any) -> None:
    log_s = -schedule.log_snr(LogNormal(schedule, mean=-1.2, std=0.9)(EVEN)) / 2
    assert log_s.mean().item() == pytest.approx(-1.2, abs=2e-3)
    assert log_s.std().item() == pytest.approx(0.9, abs=4e-3)


def test_draws_are_keyed_by_place() -> None:
    whole = Uniform().draw(Rng.at_step(0, 5, range(8), 8))
    halves = [Uniform().draw(Rng.at_step(0, 5, places, 8)) for places in (range(4), range(4, 8))]
    assert torch.equal(whole, torch.cat(halves))
    assert len(whole.unique()) == 8


def test_draws_are_uniform_over_places_and_steps() -> None:
    t: Tensor = torch.cat([Uniform(1e-6).draw(Rng.at_step(0, step, range(64), 64)) for step in range(64)])
    counts = torch.histc(t, bins=16, min=0, max=1)
    assert ((counts - 256) ** 2 / 256).sum() < 37.7  # chi-squared with 15 degrees of freedom at 0.1 %


@pytest.mark.parametrize("step", range(3))
def test_stratified_covers_every_stratum_once_over_all_ranks(step: int) -> None:
    sampler = Stratified(Uniform(t_min=1e-7))
    ranks = [sampler.draw(Rng.at_step(0, step, range(rank * 16, rank * 16 + 16), 64)) for rank in range(4)]
    assert torch.equal(torch.cat(ranks), sampler.draw(Rng.at_step(0, step, range(64), 64)))
    strata = (torch.cat(ranks) * 64).floor().long()
    assert torch.equal(strata.sort().values, torch.arange(64))


def test_stratified_shifts_from_step_to_step_and_keeps_the_distribution() -> None:
    draws = torch.stack([Stratified(Uniform(1e-7)).draw(Rng.at_step(0, step, range(4), 4)) for step in range(1000)])
    assert draws[:, 0].mean().item() == pytest.approx(0.5, abs=0.03)
    assert draws[:, 0].var().item() == pytest.approx(1 / 12, rel=0.05)
    assert draws.mean(1).var().item() == pytest.approx(
        1 / 12 / 16, rel=0.1
    )  # a fourth of independent draws' 1 / 12 / 4


@pytest.mark.parametrize(
    ("member", "arguments", "message"),
    [
        pytest.param(Uniform, {"t_min": 0.0}, "t_min=0", id="uniform from 0"),
        pytest.param(Uniform, {"t_min": 1.0}, "t_min=1", id="uniform of nothing"),
        pytest.param(Discrete, {"num_steps": 0}, "num_steps=0", id="no steps"),
        pytest.param(LogitNormal, {"std": 0.0}, "std=0", id="no spread"),
        pytest.param(LogNormal, {"schedule": EDM(), "std": -1.0}, "std=-1", id="negative spread"),
    ],
)
def test_impossible_time_samplers_are_refused(member: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        member(**arguments)
