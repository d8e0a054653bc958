from __future__ import annotations

import torch

from diffusion_train.autoencoder.identity import Identity


def test_latents_are_the_data():
    autoencoder, x = Identity(), torch.rand(2, 3, 4, 4)
    latents = autoencoder.encode(x)
    assert torch.equal(latents, x)
    assert torch.equal(autoencoder.decode(latents), x)
    assert autoencoder.latent_shape((3, 4, 4)) == latents.shape[1:]
    assert not autoencoder.state_dict()
