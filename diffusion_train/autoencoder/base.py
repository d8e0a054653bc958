"""What turns data into the latents that are diffused, and back."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from diffusion_train.utils.rng import Rng


class Autoencoder(nn.Module, ABC):
    """Frozen. Owns the scale and shift of its latents, so that they have about unit variance.

    `dtype` is what moments are computed in: kept in it they lose nothing.
    """

    dtype: torch.dtype = torch.float32

    @property
    def fingerprint(self) -> str | None:
        """A hash of everything that decides moments: weights, settings, precision. None where there is nothing to encode."""
        return None

    def encode(self, x: Tensor, rng: Rng | None = None) -> Tensor:
        """Data (B, ...) in [-1, 1] -> latents (B, ...) in the precision of x.

        An encoder that returns a distribution is sampled by `rng`, row by row; without one its mode is taken.
        """
        return self.latents(self.moments(x), rng).to(x.dtype)

    @abstractmethod
    def moments(self, x: Tensor) -> Tensor:
        """Data (B, ...) -> what the encoder returns (B, ...), from which `latents` can be had again and again."""

    @abstractmethod
    def latents(self, moments: Tensor, rng: Rng | None = None) -> Tensor:
        """-> (B, ...)."""

    @abstractmethod
    def decode(self, latents: Tensor) -> Tensor:
        """Latents (B, ...) -> data (B, ...)."""

    @abstractmethod
    def latent_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """One row's shape of data -> one row's shape of latents. Raises ValueError for data that cannot be encoded."""
