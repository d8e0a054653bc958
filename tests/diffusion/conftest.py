"""Every schedule, parameterization and weighting, and every pair of the first two that is legal."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from diffusion_train.diffusion.parameterization import X0, EDMPrediction, Epsilon, Flow, Parameterization, V
from diffusion_train.diffusion.schedule.base import Schedule
from diffusion_train.diffusion.schedule.cosine import Cosine
from diffusion_train.diffusion.schedule.edm import EDM
from diffusion_train.diffusion.schedule.linear import Linear
from diffusion_train.diffusion.schedule.rectified_flow import RectifiedFlow
from diffusion_train.diffusion.schedule.scaled_linear import ScaledLinear
from diffusion_train.diffusion.schedule.sigmoid import Sigmoid
from diffusion_train.diffusion.weighting import P2, Debiased, EDMWeight, MinSNR, Noise, SoftMinSNR, Velocity, Weighting

DISCRETE: dict[str, Schedule] = {
    "linear": Linear(),
    "scaled_linear": ScaledLinear(),
    "cosine": Cosine(),
    "sigmoid": Sigmoid(),
    "linear_ztsnr": Linear(zero_terminal_snr=True),
    "scaled_linear_ztsnr": ScaledLinear(zero_terminal_snr=True),
    "cosine_ztsnr": Cosine(zero_terminal_snr=True),
    "sigmoid_ztsnr": Sigmoid(zero_terminal_snr=True),
    "linear_4_steps": Linear(num_steps=4, beta_start=0.1, beta_end=0.7),
}
SCHEDULES: dict[str, Schedule] = DISCRETE | {
    "rectified_flow": RectifiedFlow(),
    "rectified_flow_shift_3": RectifiedFlow(shift=3),
    "edm": EDM(),
    "edm_unit_data": EDM(sigma_data=1.0),
}
PARAMETERIZATIONS: dict[str, Parameterization] = {"epsilon": Epsilon(), "x0": X0(), "v": V(), "flow": Flow()}
WEIGHTINGS: dict[str, Weighting] = {
    "noise": Noise(),
    "min_snr": MinSNR(),
    "soft_min_snr": SoftMinSNR(),
    "edm": EDMWeight(),
    "velocity": Velocity(),
    "velocity_power_1": Velocity(1, 50),
    "p2": P2(),
    "p2_gamma_half": P2(gamma=0.5),
    "debiased": Debiased(),
}


def named(members: dict[str, Any]) -> list[Any]:
    return [pytest.param(member, id=name) for name, member in members.items()]


def legal_pairs() -> dict[str, tuple[Schedule, Parameterization]]:
    return {
        f"{schedule_name}-{name}": (schedule, parameterization)
        for schedule_name, schedule in SCHEDULES.items()
        for name, parameterization in {
            **PARAMETERIZATIONS,
            "edm": EDMPrediction(getattr(schedule, "sigma_data", 0.5)),
        }.items()
        if not parameterization.conflicts(schedule)
    }


@pytest.fixture(params=named(SCHEDULES))
def schedule(request: pytest.FixtureRequest) -> Schedule:
    return request.param


@pytest.fixture(params=named(DISCRETE))
def discrete(request: pytest.FixtureRequest) -> Schedule:
    return request.param


@pytest.fixture(params=named(PARAMETERIZATIONS | {"edm": EDMPrediction()}))
def parameterization(request: pytest.FixtureRequest) -> Parameterization:
    return request.param


@pytest.fixture(params=named(WEIGHTINGS))
def weighting(request: pytest.FixtureRequest) -> Weighting:
    """All but `Output`, whose meaning depends on the parameterization."""
    return request.param


@pytest.fixture
def weightings() -> dict[str, Weighting]:
    """All but `Output`, and EDM's for both sigma_data in use."""
    return WEIGHTINGS | {"edm_unit_data": EDMWeight(sigma_data=1.0)}


@pytest.fixture(params=named(legal_pairs()))
def pair(request: pytest.FixtureRequest) -> tuple[Schedule, Parameterization]:
    return request.param


@pytest.fixture
def data() -> tuple[Tensor, Tensor]:
    """(x0, noise), each (32, 3, 2) in float64."""
    generator = torch.Generator().manual_seed(0)
    x0, noise = torch.randn(2, 32, 3, 2, dtype=torch.float64, generator=generator)
    return x0, noise
