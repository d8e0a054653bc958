"""From noise to data: the parts of a trained model, put together for sampling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from diffusion_train.autoencoder.base import Autoencoder
from diffusion_train.conditioner.base import Conditioner
from diffusion_train.diffusion.process import GaussianDiffusion, Prediction
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

    @torch.no_grad()
    def sample(self, batch: dict[str, Any], seeds: Sequence[int], batch_size: int = 64) -> Tensor:
        """Conditions as in a training batch (captions and what else the conditioner reads), a seed a row -> (B, ...).

        The conditioner also sees "target_size" (B, 2), height and width. A row's noise depends on its seed alone;
        `batch_size` rows are worked on at once. The result is on the CPU.
        """
        batch = {"target_size": torch.tensor(self.shape[-2:]).expand(len(seeds), -1)} | batch
        was_training = self.network.training
        self.network.eval()
        try:
            parts = [range(start, min(start + batch_size, len(seeds))) for start in range(0, len(seeds), batch_size)]
            rows = [self._sample(take(batch, part), Rng.for_samples([seeds[row] for row in part])) for part in parts]
        finally:
            self.network.train(was_training)
        return torch.cat([samples.float().cpu() for samples in rows]) if rows else torch.empty(0, *self.shape)

    def _sample(self, batch: dict[str, Any], rng: Rng) -> Tensor:
        weight = next(self.network.parameters())
        device = weight.device
        cond = self.conditioner({k: v.to(device) if isinstance(v, Tensor) else v for k, v in batch.items()})
        null = cond | self.conditioner.null(len(rng.rows))

        def network(xt: Tensor, told: Tensor, /, **cond: Tensor) -> Tensor:
            output: Tensor = self.network(xt.to(weight.dtype), told, **cond)
            return output

        def predict(xt: Tensor, t: Tensor, **cond: Tensor) -> Prediction:
            return self.diffusion.predict(network, xt, t, **cond)

        schedule = self.diffusion.schedule
        noise = rng.normal("noise", self.autoencoder.latent_shape(self.shape), device)
        latents = self.sampler.sample(self.guidance(predict, schedule, cond, null), schedule, noise, rng)
        return self.autoencoder.decode(latents)


def take(batch: dict[str, Any], rows: Sequence[int]) -> dict[str, Any]:
    """Some rows of a batch of tensors and lists."""
    return {
        name: value[torch.as_tensor(rows)] if isinstance(value, Tensor) else [value[row] for row in rows]
        for name, value in batch.items()
    }
