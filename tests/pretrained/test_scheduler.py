"""What a scheduler_config.json says, as nodes;
that sampling with them is diffusers' is shown in test_against_diffusers.
"""

from __future__ import annotations

import json
import math
from itertools import pairwise

import hydra
import pytest
import torch

from diffusion_train.diffusion.process import Prediction
from diffusion_train.pretrained.scheduler import nodes
from diffusion_train.sampler.base import noise_levels
from diffusion_train.sampler.dpm_solver import DPMSolver
from diffusion_train.sampler.unipc import UniPC
from diffusion_train.utils.rng import Rng

diffusers = pytest.importorskip("diffusers")
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
KINDS = [
    "DDIMScheduler",
    "PNDMScheduler",
    "EulerDiscreteScheduler",
    "DPMSolverMultistepScheduler",
    "UniPCMultistepScheduler",
]
MULTISTEP = {"DPMSolverMultistepScheduler": DPMSolver, "UniPCMultistepScheduler": UniPC}
SD15 = {"_class_name": "PNDMScheduler", "set_alpha_to_one": False, "steps_offset": 1, "skip_prk_steps": True}
SDXL = {"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "leading", "steps_offset": 1}
TRAILING = {"_class_name": "DDIMScheduler", "timestep_spacing": "trailing", "set_alpha_to_one": False}


def read(tmp_path, **settings):
    file = tmp_path / "scheduler_config.json"
    file.write_text(json.dumps(BETAS | settings))
    return nodes(file, "base")


MADE = {"DDIMScheduler": "single_step", "EulerDiscreteScheduler": "euler", **dict.fromkeys(MULTISTEP, "multistep")}


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace", None])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("made", MADE)
def test_the_steps_are_those_of_the_scheduler_made_from_the_file(made, kind, spacing, offset, tmp_path):
    """Whatever scheduler the file names: a setting that it lacks has the default of the one that is made."""
    settings = {"steps_offset": offset} | ({"timestep_spacing": spacing} if spacing else {})
    scheduler = getattr(diffusers, made).from_config({"_class_name": kind, **BETAS, **settings})
    found = read(tmp_path, _class_name=kind, **settings)
    grids, schedule = (hydra.utils.instantiate(found[name]) for name in ("sampler.grid", "diffusion.schedule"))
    grid = grids.for_family(MADE[made])
    for num_steps in (4, 10, 28, 38, 50):  # Euler's method does not round the steps of 50
        scheduler.set_timesteps(num_steps)
        times = grid(schedule, num_steps)
        labels = grid.on(schedule).label(times[:-1]).tolist()
        assert labels == pytest.approx(scheduler.timesteps.tolist(), abs=1e-3)
        assert grid.unit_start == (abs(_start(scheduler) - 1) < 1e-3)
        if made != "DDIMScheduler":
            alpha, sigma = grid.on(schedule).alpha_sigma(times)
            torch.testing.assert_close(sigma / alpha, scheduler.sigmas, rtol=5e-6, atol=2e-6)


@pytest.mark.parametrize("made", [name for name in MADE if name != "DDIMScheduler"])
def test_karras_levels_of_the_file_are_those_of_the_scheduler(made, tmp_path):
    """Multistep solvers round the time labels, and Euler's method does not."""
    settings = {"_class_name": "PNDMScheduler", "use_karras_sigmas": True, "steps_offset": 1}
    scheduler, found = getattr(diffusers, made).from_config(BETAS | settings), read(tmp_path, **settings)
    grids, schedule = (hydra.utils.instantiate(found[name]) for name in ("sampler.grid", "diffusion.schedule"))
    grid = grids.for_family(MADE[made])
    for num_steps in (5, 10, 20, 50):
        scheduler.set_timesteps(num_steps)
        times = grid(schedule, num_steps)
        alpha, sigma = grid.on(schedule).alpha_sigma(times)
        torch.testing.assert_close(sigma / alpha, scheduler.sigmas, rtol=5e-6, atol=2e-6)
        labels = grid.on(schedule).label(times[:-1])
        torch.testing.assert_close(labels, scheduler.timesteps.float(), rtol=0, atol=2e-3)
        assert torch.equal(labels, labels.round()) == (made != "EulerDiscreteScheduler")


def _start(scheduler):
    """The spread of what a network is given first, over that of data and noise together: 1, or the noise's share."""
    noise = torch.full((), float(scheduler.init_noise_sigma))
    if "Euler" in type(scheduler).__name__:
        noise = noise / (scheduler.sigmas.max() ** 2 + 1).sqrt()
    return float(noise)


@pytest.mark.parametrize(
    ("settings", "level"),
    [
        (SD15, True),
        (SDXL, False),  # the file of these tests; that of the model has set_alpha_to_one: false
        ({"_class_name": "DDIMScheduler"}, False),
        ({"_class_name": "DDIMScheduler", "set_alpha_to_one": False}, True),
        ({"_class_name": "PNDMScheduler"}, False),
        ({"_class_name": "PNDMScheduler", "set_alpha_to_one": True}, False),
        ({"_class_name": "EulerDiscreteScheduler", "set_alpha_to_one": False}, True),
        ({"_class_name": "DPMSolverMultistepScheduler"}, False),
        ({"_class_name": "DPMSolverMultistepScheduler", "set_alpha_to_one": False}, True),
    ],
)
def test_where_the_steps_end(settings, level, tmp_path):
    """DDIM as its setting says; all others step to the data."""
    found = read(tmp_path, **settings)
    grid, schedule = (hydra.utils.instantiate(found[name]) for name in ("sampler.grid", "diffusion.schedule"))
    last = [grid.for_family(family)(schedule, 10)[-1] for family in ("single_step", "multistep", "euler")]
    assert last == [torch.tensor(0.001) if level else 0, 0, 0]


@pytest.mark.parametrize("num_steps", [5, 10, 20, 50])
@pytest.mark.parametrize("kind", MULTISTEP)
@pytest.mark.parametrize("settings", [SD15, SDXL, TRAILING], ids=["sd15", "sdxl", "trailing"])
def test_multistep_samples_are_those_of_diffusers(settings, kind, num_steps, tmp_path):
    """Of Gaussian data, whose exact prediction is known: the samples' spread is never above the data's."""
    found = read(tmp_path, **settings)
    grid, schedule = (hydra.utils.instantiate(found[name]) for name in ("sampler.grid", "diffusion.schedule"))
    sampler, noise = MULTISTEP[kind](num_steps, grid), torch.tensor([[0.0], [1.0]], dtype=torch.float64)

    def predict(x, t):
        alpha, sigma = (value.double()[:, None] for value in schedule.alpha_sigma(t))
        x0 = 0.4 + alpha * 0.3**2 * (x - alpha * 0.4) / (alpha**2 * 0.3**2 + sigma**2)
        return Prediction(x0=x0, noise=(x - alpha * x0) / sigma)

    scheduler = getattr(diffusers, kind).from_config(
        getattr(diffusers, settings["_class_name"]).from_config(BETAS | settings).config
    )
    scheduler.set_timesteps(num_steps)
    x = noise
    for index in scheduler.timesteps:
        x = scheduler.step(predict(x, ((index + 1) / 1000).expand(2)).noise, index, x).prev_sample
    ours = sampler.sample(predict, schedule, noise, Rng.for_samples([0, 1]))
    torch.testing.assert_close(ours, x, rtol=0, atol=1e-5)
    assert 0 < ours[1] - ours[0] < 0.3
    levels = noise_levels(schedule, sampler.grid(schedule, num_steps), noise.device)
    h = [s.half_log_snr - t.half_log_snr for t, s in pairwise(levels[:-1])]
    assert all(math.isfinite(step) for step in h)
    assert max(after / before for before, after in pairwise(h)) < 1.7


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("key", ["use_karras_sigmas", "use_exponential_sigmas", "use_lu_lambdas"])
@pytest.mark.parametrize("kind", ["EulerDiscreteScheduler", *MULTISTEP])
def test_noise_levels_of_karras_and_exponential_spacings_are_those_of_diffusers(kind, key, spacing, tmp_path):
    """Both of the scheduler itself and of the multistep solver that diffusers makes of it."""
    if key == "use_lu_lambdas" and not kind.startswith("DPM"):
        pytest.skip("only DPM-Solver has it")
    settings = {key: True, "timestep_spacing": spacing, "steps_offset": 1}
    own = getattr(diffusers, kind).from_config(BETAS | settings)
    found = read(tmp_path, _class_name=kind, **settings)
    grids, schedule = (hydra.utils.instantiate(found[name]) for name in ("sampler.grid", "diffusion.schedule"))
    for grid, scheduler in (
        (grids.for_family("multistep" if kind in MULTISTEP else "euler"), own),
        (grids.for_family("multistep"), diffusers.DPMSolverMultistepScheduler.from_config(own.config)),
    ):
        for num_steps in (2, 4, 10, 28):
            scheduler.set_timesteps(num_steps)
            times = grid(schedule, num_steps)
            assert times[-1] == 0
            alpha, sigma = schedule.alpha_sigma(times[:-1])
            torch.testing.assert_close(sigma / alpha, scheduler.sigmas[:-1], rtol=2e-3, atol=1e-5)
            steps = torch.as_tensor(scheduler.timesteps, dtype=torch.float32)
            rounding = 0.6 if key == "use_karras_sigmas" else 1.01  # theirs rounds, or cuts to whole numbers
            torch.testing.assert_close(schedule.label(times[:-1]), steps, rtol=0, atol=rounding)
        assert grid.unit_start == (scheduler is not own or kind in MULTISTEP or spacing == "leading")


def test_one_steps_class_does_not_read_the_spacing_in_sigmas(tmp_path):
    """As in diffusers: DDIM does not, and the multistep solver that is made from its file does."""
    grid = read(tmp_path, _class_name="DDIMScheduler", use_karras_sigmas=True)["sampler.grid"]
    names = [grid[part]["_target_"].rpartition(".")[2] for part in ("single_step", "multistep")]
    assert names == ["Leading", "Karras"]


def test_the_pipeline_corrects_old_schedulers_as_in_diffusers(tmp_path):
    """Stable Diffusion 1 and 2 take offset 1 and do not clip; XL takes what the file says, so clipping is refused."""
    file = tmp_path / "scheduler_config.json"
    file.write_text(json.dumps(BETAS | {"steps_offset": 0}))
    assert nodes(file, "it", name="DDIMScheduler", kind="sd")["sampler.grid"]["single_step"]["offset"] == 1
    with pytest.raises(ValueError, match="clip_sample=True: latents are not limited"):
        nodes(file, "it", name="DDIMScheduler", kind="sdxl")
    assert nodes(file, "it", name="PNDMScheduler", kind="sdxl")["sampler.grid"]["single_step"]["offset"] == 0


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
        ({"trained_betas": [0.1, 0.2]}, r"scheduler_config\.json: trained_betas=\[0\.1, 0\.2\]: a table"),
        ({"_class_name": "LCMScheduler"}, "LCMScheduler: the model is distilled for few steps; it cannot be trained"),
        ({"_class_name": "TCDScheduler"}, "TCDScheduler: the model is distilled for few steps; it cannot be trained"),
        ({"_class_name": "IPNDMScheduler"}, "IPNDMScheduler is not supported; .* DDIMScheduler"),
        ({"use_flow_sigmas": True}, "use_flow_sigmas=True: flow matching models"),
        ({"use_beta_sigmas": True}, "use_beta_sigmas=True: is not supported; set it to false"),
        ({"use_karras_sigmas": True, "use_exponential_sigmas": True}, "only one of them can be true"),
        (
            {"use_karras_sigmas": True, "rescale_betas_zero_snr": True, "prediction_type": "v_prediction"},
            "use_karras_sigmas=True: with zero terminal SNR",
        ),
        ({"final_sigmas_type": "sigma_min"}, "final_sigmas_type=sigma_min: must be zero"),
        ({"interpolation_type": "log_linear"}, "interpolation_type=log_linear: must be linear"),
        ({"timestep_type": "continuous"}, "timestep_type=continuous: must be discrete"),
        ({"sigma_max": 80.0}, "sigma_max=80.0: noise levels other than"),
        ({"thresholding": True}, "thresholding=True: does not work for latents"),
        ({"lambda_min_clipped": -5.1}, "lambda_min_clipped=-5.1: is not supported"),
        ({"variance_type": "learned_range"}, "variance_type=learned_range: the network predicts a variance"),
        ({"new_key": 1}, "new_key=1: unknown key"),
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
