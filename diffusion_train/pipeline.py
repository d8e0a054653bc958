"""The sampling pipeline: the parts of a trained model turn noise into data."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from diffusion_train.autoencoder.base import Autoencoder
from diffusion_train.autoencoder.identity import Identity
from diffusion_train.conditioner.base import Conditioner
from diffusion_train.conditioner.none import NoCondition
from diffusion_train.diffusion.process import GaussianDiffusion, Prediction
from diffusion_train.guidance.base import Guidance
from diffusion_train.guidance.none import NoGuidance
from diffusion_train.sampler.base import Sampler
from diffusion_train.utils.rng import Rng
from diffusion_train.utils.tensor import widest_dtype

_MOST_ROWS, _MOST_PIXELS = 64, 1 << 20  # per batch: 64 images of 128 pixels, 4 of 512, 1 of 1024


@dataclass(frozen=True)
class Pipeline:
    """Draws samples of `shape`, the shape of one sample without the batch axis, for example (C, H, W).

    By default nothing conditions the network, no autoencoder is used and nothing is guided.
    """

    network: nn.Module
    diffusion: GaussianDiffusion
    sampler: Sampler
    shape: tuple[int, ...]
    conditioner: Conditioner = field(default_factory=NoCondition)
    autoencoder: Autoencoder = field(default_factory=Identity)
    guidance: Guidance = field(default_factory=NoGuidance)

    @torch.no_grad()
    def sample(
        self,
        seeds: Sequence[int],
        batch: dict[str, Any] | None = None,
        batch_size: int | None = None,
        negative_prompt: str | None = None,
    ) -> Tensor:
        """Return one sample for each of the B seeds: (B, *shape), float32, on the CPU.

        `batch` holds what the conditioner reads, as in training: for text, {"caption": [B strings]}. The conditioner
        also sees "target_size" (B, 2), height and width. The noise of a sample depends on its own seed alone. The
        network sees `batch_size` samples at once, by default a megapixel of them and at most 64. Guidance leads away
        from `negative_prompt`, by default from "no condition".

        Raises ValueError for a negative prompt if the conditioner reads no captions.
        """
        if negative_prompt is not None and not self.conditioner.reads_captions:
            raise ValueError(f"negative_prompt={negative_prompt}: this run reads no captions; leave it out")
        batch_size = batch_size or default_batch_size(self.shape)
        batch = {"target_size": torch.tensor(self.shape[-2:]).expand(len(seeds), -1), **(batch or {})}
        parts = [range(start, min(start + batch_size, len(seeds))) for start in range(0, len(seeds), batch_size)]
        with evaluating(self.network, self.conditioner):
            rows = [
                self._sample(select_rows(batch, part), Rng.for_samples([seeds[row] for row in part]), negative_prompt)
                for part in parts
            ]
        return torch.cat([samples.float().cpu() for samples in rows]) if rows else torch.empty(0, *self.shape)

    def _sample(self, batch: dict[str, Any], rng: Rng, negative_prompt: str | None) -> Tensor:
        device = next(self.network.parameters()).device
        # the weights of an adapter may be wider than the precision that the network runs in
        dtype = min(widest_dtype(self.network), self.conditioner.like.dtype, key=lambda dtype: dtype.itemsize)
        batch = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in batch.items()}
        cond = self.conditioner(batch)
        if negative_prompt is None:
            null = cond | self.conditioner.null(len(rng.rows))
        else:
            null = self.conditioner(batch | {"caption": [negative_prompt] * len(rng.rows)})

        def network(xt: Tensor, time_label: Tensor, /, **cond: Tensor) -> Tensor:
            output: Tensor = self.network(xt.to(dtype), time_label, **cond)
            return output

        def predict(xt: Tensor, t: Tensor, **cond: Tensor) -> Prediction:
            return diffusion.predict(network, xt, t, **cond)

        schedule = self.sampler.grid.on(self.diffusion.schedule)
        diffusion = self.diffusion.on(schedule)
        noise = rng.normal("noise", self.autoencoder.latent_shape(self.shape), device)
        latents = self.sampler.sample(self.guidance(predict, schedule, cond, null), schedule, noise, rng)
        return self.autoencoder.decode(latents)


@contextmanager
def evaluating(*modules: nn.Module) -> Iterator[None]:
    """Put modules in evaluation mode inside the block, and restore their mode after it."""
    modes = [module.training for module in modules]
    try:
        for module in modules:
            module.eval()
        yield
    finally:
        for module, mode in zip(modules, modes, strict=True):
            module.train(mode)


def default_batch_size(shape: Sequence[int]) -> int:
    """Return how many samples of a shape (C, H, W) are computed at once by default."""
    return max(1, min(_MOST_ROWS, _MOST_PIXELS // math.prod(shape[1:])))


def select_rows(batch: dict[str, Any], rows: Sequence[int]) -> dict[str, Any]:
    """Return some rows of a batch of tensors and lists."""
    return {
        name: value[torch.as_tensor(rows)] if isinstance(value, Tensor) else [value[row] for row in rows]
        for name, value in batch.items()
    }
