"""The noise error by noise level, which shows where a network learns."""

from __future__ import annotations

import math
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from diffusion_train.callbacks.scalars import log, noise_error
from diffusion_train.utils.ranges import at_least


class NoiseLevels(pl.Callback):
    """Logs `train_by_t/<low>-<high>`, the noise MSE in `num_levels` equal ranges of t.

    It is averaged over `every_n_steps` steps. Sums stay on the device, which is read only when they are logged.
    """

    def __init__(self, every_n_steps: int = 100, num_levels: int = 10) -> None:
        at_least(1, every_n_steps=every_n_steps, num_levels=num_levels)
        self.every_n_steps, self.num_levels = every_n_steps, num_levels
        self._sums: Tensor | None = None  # (2, num_levels): errors and counts

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        level = (outputs["t"] * self.num_levels).long().clamp(0, self.num_levels - 1)
        values = torch.stack([noise_error(outputs).float(), torch.ones_like(outputs["t"])])
        if self._sums is None:
            self._sums = torch.zeros(2, self.num_levels, device=values.device)
        self._sums.index_add_(1, level, values)
        if trainer.global_step % self.every_n_steps == 0:
            self._log(trainer, self._sums)
            self._sums = None

    def _log(self, trainer: pl.Trainer, sums: Tensor) -> None:
        sums = trainer.strategy.reduce(sums, reduce_op="sum")
        means = (sums[0] / sums[1]).tolist()
        names = [f"train_by_t/{i / self.num_levels:.1f}-{(i + 1) / self.num_levels:.1f}" for i in range(len(means))]
        log(trainer, {name: mean for name, mean in zip(names, means, strict=True) if not math.isnan(mean)})
