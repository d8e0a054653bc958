"""What callbacks that sample during training share: the averaged weights, and the rows shared out among ranks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from diffusion_train.guidance.base import Guidance
from diffusion_train.pipeline import Pipeline, take
from diffusion_train.sampler.base import Sampler


@contextmanager
def averaged_pipeline(trainer: pl.Trainer, module: Any, sampler: Sampler, guidance: Guidance) -> Iterator[Pipeline]:
    """A pipeline on the weights of the first EMA, in the precision of training."""
    shape = tuple(trainer.datamodule.shape)  # type: ignore[attr-defined]
    parts = (module.network, module.diffusion, module.conditioner, module.autoencoder)
    with module.ema.averaged(), trainer.precision_plugin.forward_context():
        yield Pipeline(*parts, sampler=sampler, guidance=guidance, shape=shape)


def sample_shared(
    trainer: pl.Trainer,
    pipeline: Pipeline,
    batch: dict[str, Any],
    seeds: Sequence[int],
    batch_size: int | None = None,
    negative_prompt: str | None = None,
) -> Tensor:
    """All ranks sample their share of the rows; every rank gets all of them, (N, ...) on the CPU."""
    mine = range(trainer.global_rank, len(seeds), trainer.world_size)
    samples = pipeline.sample(take(batch, mine), [seeds[row] for row in mine], batch_size, negative_prompt)
    if trainer.world_size == 1:
        return samples
    parts: list[Any] = [None] * trainer.world_size
    torch.distributed.all_gather_object(parts, samples)
    everything = torch.empty(len(seeds), *pipeline.shape)
    for rank, part in enumerate(parts):
        everything[rank :: trainer.world_size] = part
    return everything
