"""Autoencoders turn data into the latents that are diffused, and latents back into data."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from diffusion_train.utils.rng import Rng


class Autoencoder(nn.Module, ABC):
    """A frozen autoencoder. It scales and shifts its latents so that they have about unit variance.

    `dtype` is the precision that moments are computed in; storing them in it loses nothing.
    """

    dtype: torch.dtype = torch.float32

    @property
    def fingerprint(self) -> str | None:
        """A hash of all that determines moments: weights, settings, precision. None if there is nothing to encode."""
        return None

    def encode(self, x: Tensor, rng: Rng | None = None) -> Tensor:
        """Encode data x (B, ...) in [-1, 1] to latents (B, ...) in the precision of x.

        If the encoder returns a distribution, it is sampled with `rng`, row by row; without `rng` its mode is used.
        """
        return self.latents(self.moments(x), rng).to(x.dtype)

    @abstractmethod
    def moments(self, x: Tensor) -> Tensor:
        """Return the encoder's output (B, ...) for data (B, ...), from which `latents` can be computed repeatedly."""

    @abstractmethod
    def latents(self, moments: Tensor, rng: Rng | None = None) -> Tensor:
        """Return latents (B, ...): sampled from the moments with `rng`, their mode without."""

    @abstractmethod
    def decode(self, latents: Tensor) -> Tensor:
        """Decode latents (B, ...) to data (B, ...)."""

    @abstractmethod
    def latent_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of one row's latents for one row's data shape. Raises ValueError if it cannot be encoded."""
