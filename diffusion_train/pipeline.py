"""From noise to data: the parts of a trained model, put together for sampling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from diffusion_train.autoencoder.base import Autoencoder
from diffusion_train.conditioner.base import Conditioner
from diffusion_train.diffusion.process import GaussianDiffusion
from diffusion_train.guidance.base import Guidance
from diffusion_train.sampler.base import Sampler
from diffusion_train.utils.rng import Rng


@dataclass(frozen=True)
class Pipeline:
    """Samples of `shape`, one row's shape of data, for instance (C, H, W)."""

    network: nn.Module
    diffusion: GaussianDiffusion
    conditioner: Conditioner
    autoencoder: Autoencoder
    sampler: Sampler
    guidance: Guidance
    shape: tuple[int, ...]

    def using(self, **parts: Any) -> Pipeline:
        """The same pipeline with some parts exchanged, for instance `sampler` or `guidance`."""
        return replace(self, **parts)

    @torch.no_grad()
    def sample(self, batch: dict[str, Any], seeds: Sequence[int]) -> Tensor:
        """Conditions as in a training batch (captions and what else the conditioner reads), a seed a row -> (B, ...).

        A row's noise depends on its seed alone.
        """
        was_training = self.network.training
        self.network.eval()
        try:
            return self._sample(batch, Rng.for_samples(seeds))
        finally:
            self.network.train(was_training)

    def _sample(self, batch: dict[str, Any], rng: Rng) -> Tensor:
        device = next(self.network.parameters()).device
        cond = self.conditioner({k: v.to(device) if isinstance(v, Tensor) else v for k, v in batch.items()})
        null = self.conditioner.null(len(rng.rows))

        def predict(xt: Tensor, t: Tensor, **cond: Tensor) -> Any:
            return self.diffusion.predict(self.network, xt, t, **cond)

        schedule = self.diffusion.schedule
        noise = rng.normal("noise", self.autoencoder.latent_shape(self.shape), device)
        latents = self.sampler.sample(self.guidance(predict, schedule, cond, null), schedule, noise, rng)
        return self.autoencoder.decode(latents)

    def sample_prompts(self, prompts: Sequence[str], seeds: Sequence[int], batch_size: int = 64) -> Tensor:
        """A prompt and a seed a row -> (len(prompts), ...), on the CPU."""
        starts = range(0, len(prompts), batch_size)
        pieces = [
            self.sample({"caption": list(prompts[i : i + batch_size])}, seeds[i : i + batch_size]).cpu() for i in starts
        ]
        return torch.cat(pieces)
