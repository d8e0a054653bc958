"""Samples with the grids of a scheduler_config.json:
those of diffusers' schedulers that are made from the same file.
"""

from __future__ import annotations

import json
from typing import Any

import hydra
import pytest
import torch

from diffusion_train.diffusion.process import GaussianDiffusion
from diffusion_train.diffusion.time_sampler import Discrete
from diffusion_train.diffusion.weighting import Output
from diffusion_train.pretrained.scheduler import nodes
from diffusion_train.sampler.ddim import DDIM
from diffusion_train.sampler.dpm_solver import DPMSolver
from diffusion_train.sampler.euler import Euler
from diffusion_train.sampler.unipc import UniPC
from diffusion_train.utils.rng import Rng

diffusers = pytest.importorskip("diffusers")
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
SAMPLERS = {
    "DDIMScheduler": DDIM,
    "EulerDiscreteScheduler": Euler,
    "DPMSolverMultistepScheduler": DPMSolver,
    "UniPCMultistepScheduler": UniPC,
}
V = {"prediction_type": "v_prediction"}
ZERO_SNR = {**V, "rescale_betas_zero_snr": True}
FILES: dict[str, dict[str, Any]] = {
    "leading": {"timestep_spacing": "leading", "steps_offset": 1, "set_alpha_to_one": False},
    "trailing": {"timestep_spacing": "trailing"},
    "trailing_to_a_level": {**V, "timestep_spacing": "trailing", "set_alpha_to_one": False},
    "linspace": {"timestep_spacing": "linspace"},
    **{f"zero_snr_{name}": {**ZERO_SNR, "timestep_spacing": name} for name in ("leading", "trailing", "linspace")},
}


def parts(tmp_path, settings):
    file = tmp_path / "scheduler_config.json"
    file.write_text(json.dumps({"_class_name": "DDIMScheduler", **BETAS, **settings}))
    return {name: hydra.utils.instantiate(node) for name, node in nodes(file, "base").items()}


@pytest.mark.parametrize("num_steps", [1, 7, 20])  # of these, only 7 does not divide 1000
@pytest.mark.parametrize("settings", FILES.values(), ids=FILES.keys())
@pytest.mark.parametrize("kind", SAMPLERS)
def test_samples_are_those_of_diffusers(kind, settings, num_steps, tmp_path):
    """With a network that knows that the data is -0.7 or 0.5, give or take 0.2."""
    if (
        num_steps == 1
        and settings["timestep_spacing"] == "linspace"
        and kind in ("DDIMScheduler", "EulerDiscreteScheduler")
    ):
        pytest.skip("there diffusers starts at the least noisy level")
    made = parts(tmp_path, settings)
    schedule, parameterization = made["diffusion.schedule"], made["diffusion.parameterization"]
    noise, rng = torch.linspace(-2, 2, 8, dtype=torch.float64)[:, None], Rng.for_samples(range(8))

    def network(x, label):
        alpha, sigma = (value.double() for value in schedule.alpha_sigma((label.reshape(-1, 1) + 1) / 1000))
        variance, points = sigma**2 + (0.2 * alpha) ** 2, torch.tensor([-0.7, 0.5]).reshape(2, 1, 1)
        weights = (-((x - alpha * points) ** 2) / (2 * variance)).softmax(0)
        x0 = (weights * (points + 0.04 * alpha / variance * (x - alpha * points))).sum(0)
        a, b = parameterization.coefficients(alpha, sigma)
        return a * x0 + b * (x - alpha * x0) / sigma

    scheduler = getattr(diffusers, kind).from_config(BETAS | settings, clip_sample=False)
    scheduler.set_timesteps(num_steps)
    theirs = noise * scheduler.init_noise_sigma
    for index in scheduler.timesteps:
        output = network(scheduler.scale_model_input(theirs, index), index)
        theirs = scheduler.step(output, index, theirs).prev_sample
    sampler = SAMPLERS[kind](num_steps, made["sampler.grid"])
    on = sampler.grid.on(schedule)
    diffusion = GaussianDiffusion(on, parameterization, Output(), Discrete())
    ours = sampler.sample(lambda x, t: diffusion.predict(network, x, t), on, noise, rng)
    torch.testing.assert_close(ours.double(), theirs.double(), rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize(("kind", "sampler"), SAMPLERS.items(), ids=SAMPLERS.keys())
def test_the_levels_are_those_of_diffusers_for_every_number_of_steps(kind, sampler, spacing, offset, tmp_path):
    """At 62 numbers, the first of which is 61, trailing steps of diffusers have one more, of label -1."""
    if offset and spacing != "leading":
        pytest.skip("only leading steps have an offset")
    settings = {"timestep_spacing": spacing, "steps_offset": offset}
    made, scheduler = parts(tmp_path, settings), getattr(diffusers, kind).from_config(BETAS | settings)
    schedule, extra = made["diffusion.schedule"], 0
    grid = sampler(1, made["sampler.grid"]).grid
    for num_steps in range(1 if spacing != "linspace" else 2, 1001 - grid.skip_last - offset):
        scheduler.set_timesteps(num_steps)
        times = grid(schedule, num_steps)
        labels, theirs = schedule.label(times[:-1]), scheduler.timesteps.float()
        if len(theirs) > num_steps:
            extra += 1
            assert theirs[-1] == -1
            assert spacing == "trailing"
        assert (labels - theirs[:num_steps]).abs().max() < 1e-3
        if sampler is DDIM:
            before = (theirs[:num_steps] - 1000 // num_steps).clamp(min=-1)
            assert (schedule.label(grid.ends(times)) - before).abs().max() < 1e-3
    assert extra == (62 if spacing == "trailing" else 0)
