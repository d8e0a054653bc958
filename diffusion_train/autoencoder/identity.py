"""No autoencoder: the data itself is diffused."""

from __future__ import annotations

from torch import Tensor

from diffusion_train.autoencoder.base import Autoencoder
from diffusion_train.utils.rng import Rng


class Identity(Autoencoder):
    """Moments, latents and data are the same."""

    def moments(self, x: Tensor) -> Tensor:
        return x

    def latents(self, moments: Tensor, rng: Rng | None = None) -> Tensor:
        return moments

    def decode(self, latents: Tensor) -> Tensor:
        return latents

    def latent_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(shape)
