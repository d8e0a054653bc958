"""Helpers of callbacks that sample during training with averaged weights and on all ranks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from PIL import Image
from torch import Tensor

from diffusion_train.callbacks.progress import say
from diffusion_train.callbacks.stop import stoppable
from diffusion_train.guidance.base import Guidance
from diffusion_train.logger.image import log_image
from diffusion_train.picture import save_png
from diffusion_train.pipeline import Pipeline, select_rows
from diffusion_train.sampler.base import Sampler


@contextmanager
def averaged_pipeline(trainer: pl.Trainer, module: Any, sampler: Sampler, guidance: Guidance) -> Iterator[Pipeline]:
    """Yield a pipeline with the weights of the first EMA, in the precision of training."""
    shape = tuple(trainer.datamodule.shape)  # type: ignore[attr-defined]
    with module.ema.averaged(), trainer.precision_plugin.forward_context():
        yield Pipeline(
            module.network, module.diffusion, sampler, shape, module.conditioner, module.autoencoder, guidance
        )


def sample_shared(
    trainer: pl.Trainer,
    pipeline: Pipeline,
    batch: dict[str, Any],
    seeds: Sequence[int],
    batch_size: int | None = None,
    negative_prompt: str | None = None,
) -> Tensor:
    """Sample the rows distributed over all ranks; return all samples (N, ...) on the CPU of every rank."""
    mine = range(trainer.global_rank, len(seeds), trainer.world_size)
    rows = select_rows(batch, mine)
    samples = stoppable(
        trainer, lambda: pipeline.sample([seeds[row] for row in mine], rows, batch_size, negative_prompt)
    )
    everything = torch.empty(len(seeds), *pipeline.shape)
    for rank, part in enumerate(gather(trainer, samples)):
        everything[rank :: trainer.world_size] = part
    return everything


def gather(trainer: pl.Trainer, mine: Any) -> list[Any]:
    """Return the objects `mine` of all ranks, in the order of ranks, on every rank."""
    parts = [mine] * trainer.world_size
    if trainer.world_size > 1:
        torch.distributed.all_gather_object(parts, mine)
    return parts


def show_samples(trainer: pl.Trainer, folder: Path, image: Image.Image, caption: str) -> None:
    """Save an image of samples as `step_00001000.png` and log it."""
    path = folder / f"step_{trainer.global_step:08d}.png"
    save_png(image, path)
    log_image(trainer.loggers, "samples", path, caption, trainer.global_step)
    say(f"samples: {path}")
