"""What turns data into the latents that are diffused, and back."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn


class Autoencoder(nn.Module, ABC):
    """Frozen. Owns the scale and shift of its latents, so that they have about unit variance."""

    @abstractmethod
    def encode(self, x: Tensor) -> Tensor:
        """Data (B, ...) in [-1, 1] -> latents (B, ...)."""

    @abstractmethod
    def decode(self, latents: Tensor) -> Tensor:
        """Latents (B, ...) -> data (B, ...)."""

    @abstractmethod
    def latent_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """One row's shape of data -> one row's shape of latents."""
