"""Stable Diffusion's autoencoder with tiny random weights, against diffusers' own calls."""

from __future__ import annotations

import json

import pytest
import tiny_pipelines
import torch

from diffusion_train.autoencoder.kl import KL
from diffusion_train.utils.rng import Rng

diffusers = pytest.importorskip("diffusers")
X = torch.rand(3, 3, 64, 48, generator=torch.Generator().manual_seed(0)) * 2 - 1
RNG = Rng.at_step(1, 2, [4, 5, 6], 8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tiny_pipelines.sd15(tmp_path_factory.mktemp("sd15"))
    config = json.loads((folder / "vae" / "config.json").read_text())
    (folder / "vae" / "config.json").write_text(json.dumps(config | {"shift_factor": 0.3}))
    return folder


@pytest.fixture(scope="module")
def vae(folder):
    return diffusers.AutoencoderKL.from_pretrained(folder / "vae")


@pytest.fixture(scope="module")
def kl(folder):
    return KL(str(folder))


def test_the_mode_is_diffusers(kl, vae):
    with torch.no_grad():
        expected = (vae.encode(X).latent_dist.mode() - 0.3) * 0.18215
    torch.testing.assert_close(kl.encode(X), expected, rtol=0, atol=1e-6)
    assert kl.latent_shape(tuple(X.shape[1:])) == expected.shape[1:] == (4, 8, 6)


def test_the_posterior_is_diffusers_with_our_noise(kl, vae, monkeypatch):
    noise = RNG.normal("posterior", (4, 8, 6))
    monkeypatch.setattr("diffusers.models.autoencoders.vae.randn_tensor", lambda *_, **__: noise)
    with torch.no_grad():
        expected = (vae.encode(X).latent_dist.sample() - 0.3) * 0.18215
    torch.testing.assert_close(kl.encode(X, RNG), expected, rtol=0, atol=1e-6)


MEAN, STD = [0.3, -0.1, 2.0, 0.0], [0.5, 1.5, 4.0, 1.0]


def with_settings(folder, new, **settings):
    """The autoencoder of `folder` with other settings."""
    config = json.loads((folder / "vae" / "config.json").read_text())
    (new / "diffusion_pytorch_model.safetensors").symlink_to(folder / "vae" / "diffusion_pytorch_model.safetensors")
    (new / "config.json").write_text(json.dumps(config | settings))
    return str(new)


def test_mean_and_deviation_of_each_channel_are_applied_as_in_diffusers(folder, vae, tmp_path):
    """Its pipeline of XL decodes latents * std / scaling_factor + mean."""
    kl = KL(with_settings(folder, tmp_path, shift_factor=None, latents_mean=MEAN, latents_std=STD))
    mean, std = (torch.tensor(values).view(1, 4, 1, 1) for values in (MEAN, STD))
    latents = torch.randn(2, 4, 8, 6, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = (vae.encode(X).latent_dist.mode() - mean) * 0.18215 / std
        decoded = vae.decode(latents * std / 0.18215 + mean).sample
    torch.testing.assert_close(kl.encode(X), expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(kl.decode(latents), decoded, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"latents_mean": MEAN, "latents_std": STD}, "latents_std, or shift_factor, or none"),
        ({"latents_mean": MEAN, "shift_factor": None}, "latents_std=None.* set the others to null"),
        ({"latents_mean": MEAN, "latents_std": [1.0], "shift_factor": None}, "one number for each of the 4 channels"),
        ({"latents_mean": MEAN, "latents_std": [0.0] * 4, "shift_factor": None}, "latents_std above 0"),
    ],
)
def test_a_mean_that_cannot_be_applied_is_refused(folder, tmp_path, settings, message):
    with pytest.raises(ValueError, match=rf"autoencoder\.source=.*config\.json: latents_mean=.*{message}"):
        KL(with_settings(folder, tmp_path, **settings))


def test_moments_kept_give_the_very_same_latents(kl):
    moments = kl.moments(X)
    assert moments.shape == (3, 8, 8, 6)
    assert torch.equal(kl.latents(moments, RNG), kl.encode(X, RNG))
    assert torch.equal(kl.latents(moments), kl.encode(X))


def test_the_draw_belongs_to_the_place_in_the_batch(kl):
    moments = kl.moments(X[:1]).expand(3, -1, -1, -1)
    together = kl.latents(moments, RNG)
    alone = kl.latents(moments[:1], Rng.at_step(1, 2, [5], 8))
    torch.testing.assert_close(alone[0], together[1])  # exp() of one row and of three may round differently
    assert not torch.equal(together[0], together[1])


def test_decoding_is_diffusers_and_undoes_scale_and_shift(kl, vae):
    latents = torch.randn(3, 4, 8, 6, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = vae.decode(latents / 0.18215 + 0.3).sample
    torch.testing.assert_close(kl.decode(latents), expected, rtol=0, atol=1e-5)
    assert torch.equal(kl.decode(latents[1:2])[0], kl.decode(latents)[1])  # one by one: the same kernels, same shapes


def test_it_keeps_its_own_precision_and_stays_out_of_the_module(kl):
    plain = kl.encode(X)
    assert not kl.state_dict()
    assert not list(kl.to(torch.bfloat16).parameters())
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(kl.encode(X), plain)
    assert not kl.encode(X.requires_grad_()).requires_grad
    X.requires_grad_(False)
    assert kl.encode(X.bfloat16()).dtype == torch.bfloat16


def test_bfloat16_on_demand(folder, kl):
    rough = KL(str(folder / "vae"), "bfloat16")
    latents = rough.encode(X)
    assert latents.dtype == torch.float32
    assert 0 < (latents - kl.encode(X)).abs().max() < 0.02


def test_sides_that_the_factor_does_not_divide_are_a_mistake_with_a_remedy(kl):
    with pytest.raises(ValueError, match=r"data\.image_size: .* multiples of 8 .* 60 x 64 pixels; .* 56, 64"):
        kl.latent_shape((3, 60, 64))
    with pytest.raises(ValueError, match="must have 3 channels for the autoencoder, got 1"):
        kl.latent_shape((1, 64, 64))
    with pytest.raises(ValueError, match="multiples of 8"):
        kl.encode(X[..., :-1])


def test_precisions_that_cannot_be_are_refused(folder, tmp_path):
    with pytest.raises(ValueError, match=r"autoencoder\.dtype=half: must be one of float32"):
        KL(str(folder), "half")
    with pytest.raises(ValueError, match="overflows in float16; use float32 or bfloat16"):
        KL(str(tiny_pipelines.sdxl(tmp_path)), "float16")


def test_folders_that_cannot_be_used_are_named(folder, tmp_path):
    with pytest.raises(ValueError, match=r"autoencoder\.source=.*: neither this folder nor its vae/ holds"):
        KL(str(tmp_path))
    with pytest.raises(ValueError, match="_class_name must be one of AutoencoderKL, got UNet2D"):
        KL(str(folder / "unet"))
    (tmp_path / "config.json").write_text('{"_class_name": "AutoencoderKL"}')
    (tmp_path / "diffusion_pytorch_model.bin").touch()
    with pytest.raises(ValueError, match=r"holds no \.safetensors file"):
        KL(str(tmp_path))
