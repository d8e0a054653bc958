"""Reports a run that learns nothing: a learning rate or a gradient of 0, or weights that do not change."""

from __future__ import annotations

import warnings
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from diffusion_train.callbacks.scalars import is_logged
from diffusion_train.training.lr_schedule import Constant
from diffusion_train.utils.ranges import at_least


class Movement(pl.Callback):
    """Warns once if the gradient of all trained weights is 0, and once if none of them changed in `num_steps` steps.

    At the start it warns of a learning rate schedule that does not fit the length of the run.

    It looks only at logged steps, because it waits for the device. It compares weights by their sums and norms.
    """

    def __init__(self, num_steps: int = 100) -> None:
        at_least(1, num_steps=num_steps)
        self.num_steps = num_steps
        self._since, self._marks = 0, torch.empty(0)
        self._reported: set[str] = set()

    def on_train_start(self, trainer: pl.Trainer, module: Any) -> None:
        self._since, self._marks = trainer.global_step, _marks(module)
        schedule = module.optimization.lr_schedule
        if trainer.is_global_zero and isinstance(schedule, Constant):
            for doubt in schedule.doubts(trainer.max_steps):
                warnings.warn(doubt, stacklevel=1)

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if not is_logged(trainer):
            return
        if float(outputs["grad_norm"]) == 0:
            self._report("the gradient of all trained weights is exactly 0", trainer)
        if trainer.global_step - self._since >= self.num_steps:
            since, before = self._since, self._marks
            self._since, self._marks = trainer.global_step, _marks(module)
            if torch.equal(before, self._marks):
                self._report(f"no trained weight changed since step {since}", trainer)

    def _report(self, problem: str, trainer: pl.Trainer) -> None:
        kind = problem.partition(" since ")[0]
        if trainer.is_global_zero and kind not in self._reported:
            self._reported.add(kind)
            warnings.warn(
                f"step {trainer.global_step}: {problem}, so this run learns nothing; optimizer.lr may be too small for "
                f"trainer.precision={trainer.precision}, or the network may ignore its trained weights",
                stacklevel=1,
            )


def _marks(module: Any) -> Tensor:
    """Return the sum and the norm of each trained weight, on the CPU: one synchronization."""
    weights = [p.detach() for p in module.trainable_modules.parameters() if p.requires_grad]
    wide = torch.float32 if weights[0].device.type == "mps" else torch.float64
    marks = [(weight.sum(dtype=wide), torch.linalg.vector_norm(weight, dtype=wide)) for weight in weights]
    return torch.stack([mark for pair in marks for mark in pair]).cpu()
