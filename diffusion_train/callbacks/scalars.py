"""The scalars of training: means over the global batch at logged steps."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from diffusion_train.utils.process.interruption import OnAllRanks
from diffusion_train.utils.ranges import at_least


def log(trainer: pl.Trainer, scalars: dict[str, float]) -> None:
    """Send scalars of the current optimizer step to every logger."""
    for logger in trainer.loggers:
        logger.log_metrics(scalars, step=trainer.global_step)


def is_logged(trainer: pl.Trainer) -> bool:
    """Return whether scalars of the current step are logged."""
    return bool(trainer.global_step % trainer.log_every_n_steps == 0)  # type: ignore[attr-defined]


def noise_error(outputs: dict[str, Tensor]) -> Tensor:
    """Return the error of the predicted noise of each row (B,), at most 1: that of predicting no noise.

    A network that predicts the data divides its error by sigma^2, so that a single row with little noise would hide all
    others in a mean.
    """
    return outputs["noise_mse"].clamp(max=1)


class NumericalError(RuntimeError, OnAllRanks):
    """Training makes no progress because its gradients are not finite."""


class Scalars(pl.Callback):
    """Logs `train/loss`, `train/noise_mse` (see `noise_error`), `train/lr` and `train/grad_norm`.

    The device is read only at logged steps. Raises NumericalError after `max_skipped_steps` skipped steps in a row.
    """

    def __init__(self, max_skipped_steps: int = 20) -> None:
        at_least(1, max_skipped_steps=max_skipped_steps)
        self.max_skipped_steps = max_skipped_steps
        self.last_loss: float | None = None

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Log the means over all ranks. Raises NumericalError on all ranks together."""
        if not is_logged(trainer):
            return
        local = [outputs["loss"].mean(), noise_error(outputs).mean(), outputs["grad_norm"], module.skipped_in_a_row]
        means = trainer.strategy.reduce(torch.stack([value.double() for value in local]), reduce_op="mean")
        loss, noise_mse, grad_norm, skipped = means.tolist()
        self.last_loss = loss
        log(
            trainer,
            {
                "train/loss": loss,
                "train/noise_mse": noise_mse,
                "train/grad_norm": grad_norm,
                "train/lr": trainer.optimizers[0].param_groups[0]["lr"],
            }
            | ({"train/skipped_in_a_row": skipped} if skipped else {}),
        )
        if skipped >= self.max_skipped_steps:
            raise NumericalError(
                f"the gradient was not finite for {int(skipped)} steps in a row (last: step {trainer.global_step}); "
                "these steps changed no weight. Lower optimizer.lr, or use trainer.precision=32-true"
            )
