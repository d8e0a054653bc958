"""No autoencoder: the data themselves are diffused."""

from __future__ import annotations

from torch import Tensor

from diffusion_train.autoencoder.base import Autoencoder


class Identity(Autoencoder):
    def encode(self, x: Tensor) -> Tensor:
        return x

    def decode(self, latents: Tensor) -> Tensor:
        return latents

    def latent_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(shape)
