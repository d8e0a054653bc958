"""The law of loading a model: its predictions and its images are those of diffusers' own pipeline."""

from __future__ import annotations

import pytest
import torch

from diffusion_train.guidance.classifier_free import ClassifierFree
from diffusion_train.guidance.none import NoGuidance
from diffusion_train.pipeline import Pipeline
from diffusion_train.pretrained import parts
from diffusion_train.sampler.ddim import DDIM
from diffusion_train.sampler.dpm_solver import DPMSolver
from diffusion_train.sampler.euler import Euler
from diffusion_train.sampler.unipc import UniPC
from diffusion_train.utils.rng import Rng

diffusers = pytest.importorskip("diffusers")
PROMPTS, SEEDS = ["a red apple", "photo of a dog, a cat"], [3, 4]
HEIGHT, WIDTH = 64, 48
NOISE = Rng.for_samples(SEEDS).normal("noise", (4, HEIGHT // 8, WIDTH // 8))


@torch.no_grad()
def their_conditions(base):
    """What their pipeline gives its UNet without guidance."""
    if base.name != "sdxl":
        return {"encoder_hidden_states": base.theirs.encode_prompt(PROMPTS, "cpu", 1, False)[0]}
    text, _, pooled, _ = base.theirs.encode_prompt(PROMPTS, device="cpu", do_classifier_free_guidance=False)
    sizes = torch.tensor([[HEIGHT, WIDTH, 0, 0, HEIGHT, WIDTH]] * len(PROMPTS)).float()
    return {"encoder_hidden_states": text, "added_cond_kwargs": {"text_embeds": pooled, "time_ids": sizes}}


def close(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-4)


@torch.no_grad()
def test_every_prediction_and_step_is_diffusers(base, tmp_path):
    theirs = base.scheduler(diffusers.DDIMScheduler)
    theirs.set_timesteps(10)
    times = base.grid(theirs, tmp_path)(base.diffusion.schedule, 10)
    alpha, sigma = base.diffusion.schedule.alpha_sigma(times)
    size = torch.tensor([[HEIGHT, WIDTH]] * len(PROMPTS))
    cond, conditions = base.conditioner({"caption": PROMPTS, "target_size": size}), their_conditions(base)
    assert base.diffusion.schedule.label(times[:-1]).tolist() == theirs.timesteps.tolist()
    x = NOISE
    for i, index in enumerate(theirs.timesteps):
        output = base.theirs.unet(x, index, **conditions).sample
        step = theirs.step(output, index, x)
        ours = base.diffusion.predict(base.network, x, times[i].expand(len(x)), **cond)
        close(ours.x0, step.pred_original_sample)
        close(ours.noise, (x - alpha[i] * step.pred_original_sample) / sigma[i])
        close(alpha[i + 1] * ours.x0 + sigma[i + 1] * ours.noise, step.prev_sample)
        x = step.prev_sample


def test_no_key_that_diffusers_saves_is_refused(base):
    found = parts.of_pipeline(base.folder, "it", "it")
    assert found["sampler.grid"] == base.nodes(base.folder / "scheduler" / "scheduler_config.json")["sampler.grid"]


SAMPLERS = {
    "own": (None, {}, None),  # that is, DDIM and Euler's method
    "ddim": ("DDIMScheduler", {}, DDIM),
    "ddim_to_data": ("DDIMScheduler", {"set_alpha_to_one": True, "timestep_spacing": "trailing"}, DDIM),
    "euler": ("EulerDiscreteScheduler", {}, Euler),
    "euler_trailing": ("EulerDiscreteScheduler", {"timestep_spacing": "trailing"}, Euler),
    "dpm_solver": ("DPMSolverMultistepScheduler", {}, DPMSolver),
    "dpm_solver_leading": ("DPMSolverMultistepScheduler", {"timestep_spacing": "leading"}, DPMSolver),
    "unipc_trailing": ("UniPCMultistepScheduler", {"timestep_spacing": "trailing"}, UniPC),
}


# Each sampler with each prediction, each conditioner with one sampler. PNDM, SD 1.5's own, has no counterpart here.
CASES = [
    *(("sd15", name, 7.5) for name in SAMPLERS if name != "own"),
    *(("sd2_v", name, 7.5) for name in SAMPLERS if name != "ddim_to_data"),
    *(("sd2_zero_snr", name, 7.5) for name in SAMPLERS if name != "dpm_solver_leading"),
    *(("sdxl", name, 7.5) for name in ("own", "dpm_solver")),
    *((name, "ddim", 1.0) for name in ("sd15", "sdxl")),
]


@pytest.mark.parametrize(
    ("base", "name", "scale"),
    [case if case[0] == "sd15" else pytest.param(*case, marks=pytest.mark.slow) for case in CASES],
    indirect=["base"],
    ids=lambda value: str(value),
)
def test_a_seeded_image_is_diffusers(base, name, scale, tmp_path):
    kind, settings, sampler = SAMPLERS[name]
    sampler = sampler or (Euler if base.name == "sdxl" else DDIM)
    theirs = base.theirs.scheduler = base.scheduler(kind and getattr(diffusers, kind), **settings)
    expected = base.theirs(
        PROMPTS,
        latents=NOISE.clone(),
        num_inference_steps=10,
        guidance_scale=scale,
        height=HEIGHT,
        width=WIDTH,
        output_type="pt",
    ).images
    guidance = NoGuidance() if scale == 1 else ClassifierFree(scale)
    pipeline = Pipeline(
        base.network,
        base.diffusion,
        sampler(10, base.grid(theirs, tmp_path)),
        (3, HEIGHT, WIDTH),
        base.conditioner,
        base.autoencoder,
        guidance,
    )
    images = (pipeline.sample(SEEDS, {"caption": PROMPTS}) / 2 + 0.5).clamp(0, 1)
    close(images, expected)


@pytest.mark.parametrize(
    ("base", "negative"),
    [("sd15", "cat, logo"), ("sd15", None), *(("sdxl", negative) for negative in ("cat, logo", "", None))],
    indirect=["base"],
)
@pytest.mark.slow
def test_guidance_leads_away_from_a_negative_prompt_as_in_diffusers(base, negative, tmp_path):
    """An empty one is a caption, where none may be zeros: SDXL."""
    theirs = base.theirs.scheduler = base.scheduler(diffusers.DDIMScheduler)
    size = {"height": HEIGHT, "width": WIDTH}
    expected = base.theirs(
        PROMPTS,
        negative_prompt=None if negative is None else [negative] * len(PROMPTS),
        latents=NOISE.clone(),
        num_inference_steps=10,
        guidance_scale=7.5,
        output_type="pt",
        **size,
    ).images
    sampler, parts = DDIM(10, base.grid(theirs, tmp_path)), (base.conditioner, base.autoencoder, ClassifierFree(7.5))
    pipeline = Pipeline(base.network, base.diffusion, sampler, (3, HEIGHT, WIDTH), *parts)
    samples = pipeline.sample(SEEDS, {"caption": PROMPTS}, negative_prompt=negative)
    close((samples / 2 + 0.5).clamp(0, 1), expected)
