"""What a scheduler_config.json says, as nodes; that sampling with them is diffusers' is shown in test_against_diffusers."""

from __future__ import annotations

import json

import hydra
import pytest
import torch

from diffusion_train.pretrained.scheduler import nodes

diffusers = pytest.importorskip("diffusers")
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
KINDS = [
    "DDIMScheduler",
    "PNDMScheduler",
    "EulerDiscreteScheduler",
    "DPMSolverMultistepScheduler",
    "UniPCMultistepScheduler",
]


def read(tmp_path, **settings):
    file = tmp_path / "scheduler_config.json"
    file.write_text(json.dumps(BETAS | settings))
    return nodes(file, "base")


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace", None])
@pytest.mark.parametrize("kind", KINDS)
def test_the_steps_are_those_of_the_scheduler(kind, spacing, offset, tmp_path):
    settings = {"steps_offset": offset} | ({"timestep_spacing": spacing} if spacing else {})
    scheduler = getattr(diffusers, kind)(**BETAS, **settings, **({"skip_prk_steps": True} if kind[0] == "P" else {}))
    found = read(tmp_path, _class_name=kind, **settings)
    grid, schedule = (hydra.utils.instantiate(found[name]) for name in ("sampler.grid", "diffusion.schedule"))
    for num_steps in (4, 10, 28, 38):  # 999 / 27 and 999 / 37 are whole: Euler's method does not round
        scheduler.set_timesteps(num_steps)
        steps = list(dict.fromkeys(scheduler.timesteps.tolist()))  # PNDM takes its second step twice
        assert schedule.label(grid(schedule, num_steps)[:-1]).tolist() == pytest.approx(steps, abs=1e-3)
        assert grid.unit_start == (abs(_start(scheduler) - 1) < 1e-3)


def _start(scheduler):
    """The spread of what a network is given first, over that of data and noise together: 1, or the noise's share."""
    noise = torch.full((), float(scheduler.init_noise_sigma))
    if "Euler" in type(scheduler).__name__:
        noise = noise / (scheduler.sigmas.max() ** 2 + 1).sqrt()
    return float(noise)


@pytest.mark.parametrize(
    ("settings", "level"),
    [
        ({"_class_name": "DDIMScheduler"}, False),
        ({"_class_name": "DDIMScheduler", "set_alpha_to_one": False}, True),
        ({"_class_name": "PNDMScheduler"}, True),
        ({"_class_name": "PNDMScheduler", "set_alpha_to_one": True}, False),
        ({"_class_name": "EulerDiscreteScheduler", "set_alpha_to_one": False}, False),
        ({"_class_name": "DPMSolverMultistepScheduler", "set_alpha_to_one": False}, False),
    ],
)
def test_where_the_steps_end(settings, level, tmp_path):
    assert read(tmp_path, **settings)["sampler.grid"]["end_at_level"] == level


@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize("betas", ["linear", "scaled_linear"])
def test_the_noise_levels_are_those_of_the_scheduler(betas, zero, tmp_path):
    settings = {"beta_schedule": betas, "rescale_betas_zero_snr": zero, "prediction_type": "v_prediction"}
    scheduler = diffusers.DDIMScheduler(**BETAS | settings)
    schedule = hydra.utils.instantiate(read(tmp_path, _class_name="DDIMScheduler", **settings)["diffusion.schedule"])
    alpha, _ = schedule.alpha_sigma(torch.arange(1, 1001) / 1000)
    torch.testing.assert_close(alpha.square(), scheduler.alphas_cumprod, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"_class_name": "FlowMatchEulerDiscreteScheduler"}, "not supported yet"),
        (
            {"beta_schedule": "squaredcos_cap_v2"},
            "beta_schedule=squaredcos_cap_v2 in scheduler_config.json is not supported",
        ),
        ({"trained_betas": [0.1, 0.2]}, "trained_betas in scheduler_config.json is not supported"),
        ({"prediction_type": "flow"}, "must be one of epsilon"),
        ({"timestep_spacing": "karras"}, "timestep_spacing=karras"),
        ({"rescale_betas_zero_snr": True}, "with which epsilon is undefined"),
        ({"beta_start": 0.5, "beta_end": 0.1}, "betas between 0 and 1"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_has_no_equal_is_refused(settings, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        read(tmp_path, **{"_class_name": "DDIMScheduler"} | settings)
