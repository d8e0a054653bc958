"""One training loss, computed once more by hand with diffusers' own objects."""

from __future__ import annotations

import functools

import pytest
import torch

from diffusion_train.training import ema, lr_schedule
from diffusion_train.training.finite import finite_rows
from diffusion_train.training.module import DiffusionModule
from diffusion_train.training.optimizer import Optimization, adamw
from diffusion_train.utils.rng import Rng

diffusers = pytest.importorskip("diffusers")
CAPTIONS = ["a red apple", "logo", "photo of a dog, a cat", "a cat"]
BATCH = {
    "x": torch.rand(4, 3, 64, 48, generator=torch.Generator().manual_seed(0)) * 2 - 1,
    "caption": CAPTIONS,
    "key": ["w", "x", "y", "z"],
    "index": torch.arange(4),
    "original_size": torch.tensor([[100, 90], [64, 48], [300, 200], [70, 48]]),
    "crop": torch.tensor([[0, 4], [0, 0], [1, 0], [3, 2]]),
}
RNG = Rng.at_step(5, 7, range(4, 8), 8)


def module(base, condition_dropout=0.0):
    optimization = Optimization(functools.partial(adamw, lr=1e-3), lr_schedule.Cosine(20, 2))
    parts = (base.network, base.diffusion, base.conditioner, base.autoencoder)
    return DiffusionModule(*parts, optimization, ema.constant([0.9]), condition_dropout)


@torch.no_grad()
def their_loss(base, loss, shown):
    """The loss (4,) for our posterior, noise and times; rows that are not `shown` see no prompt."""
    scheduler, vae = base.scheduler(diffusers.DDPMScheduler), base.theirs.vae
    posterior = vae.encode(BATCH["x"]).latent_dist
    latents = (posterior.mean + posterior.std * RNG.normal("posterior", (4, 8, 6))) * vae.config.scaling_factor
    noise = RNG.normal("noise", latents.shape[1:])
    index = (loss.t * 1000).round().long() - 1
    xt = scheduler.add_noise(latents, noise, index)
    output = base.theirs.unet(xt, index, **their_conditions(base, shown)).sample
    v = scheduler.config.prediction_type == "v_prediction"
    target = scheduler.get_velocity(latents, noise, index) if v else noise
    return (output - target).square().mean((1, 2, 3))


def their_conditions(base, shown):
    if base.name != "sdxl":
        prompts = [caption if seen else "" for caption, seen in zip(CAPTIONS, shown, strict=True)]
        return {"encoder_hidden_states": base.theirs.encode_prompt(prompts, "cpu", 1, False)[0]}
    text, _, pooled, _ = base.theirs.encode_prompt(CAPTIONS, device="cpu", do_classifier_free_guidance=False)
    sizes = [
        base.theirs._get_add_time_ids(tuple(original), tuple(crop), (64, 48), torch.float32, 48)
        for original, crop in zip(BATCH["original_size"].tolist(), BATCH["crop"].tolist(), strict=True)
    ]
    added = {"text_embeds": pooled * shown[:, None], "time_ids": torch.cat(sizes)}
    return {"encoder_hidden_states": text * shown[:, None, None], "added_cond_kwargs": added}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("base", "condition_dropout"),
    [("sd15", 0.0), ("sd2_v", 0.0), ("sd2_zero_snr", 0.0), ("sd15", 0.5), ("sdxl", 0.5)],
    indirect=["base"],
)
def test_a_training_loss_is_diffusers(base, condition_dropout):
    shown = RNG.uniform("condition") >= condition_dropout
    assert shown.all() == (condition_dropout == 0)
    assert shown.any()
    trained = module(base, condition_dropout)
    loss = trained.loss(*trained.prepare(BATCH, RNG), RNG)
    torch.testing.assert_close(loss.loss.detach(), their_loss(base, loss, shown), rtol=1e-5, atol=1e-5)


def test_without_places_of_a_step_the_mode_is_taken(base):
    vae = base.theirs.vae
    with torch.no_grad():
        mode = vae.encode(BATCH["x"]).latent_dist.mode() * vae.config.scaling_factor
    torch.testing.assert_close(module(base).prepare(BATCH)[0], mode, rtol=0, atol=1e-5)


def test_only_samples_whose_data_are_no_numbers_have_such_latents(base):
    x = BATCH["x"].clone()
    x[2, 0, 5, 5] = torch.inf
    x0, _ = module(base).prepare(BATCH | {"x": x}, RNG)
    assert [row for row, finite in enumerate(finite_rows(x0).tolist()) if not finite] == [2]
