"""A run whose length is given as time instead of steps."""

from __future__ import annotations

from time import monotonic
from typing import Any

import pytorch_lightning as pl

from diffusion_train.callbacks.scalars import is_logged


class TimeBudget(pl.Callback):
    """Completes the run after `minutes` of training, counted over restarts, as `trainer.max_steps` does.

    `trainer.max_time` only stops a run, which can resume later. The budget does not change earlier steps, so use it
    with a learning rate schedule that needs no horizon.
    """

    def __init__(self, minutes: float) -> None:
        if not minutes > 0:
            raise ValueError(f"callbacks.time_budget.minutes={minutes:g}: must be positive")
        self.minutes = minutes
        self._spent = 0.0  # seconds before this start
        self._start = monotonic()

    def on_train_start(self, trainer: pl.Trainer, module: Any) -> None:
        self._start = monotonic()

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if not is_logged(trainer):
            return  # ranks decide together at logged steps, where they synchronize anyway
        if trainer.strategy.reduce_boolean_decision(self.seconds >= 60 * self.minutes, all=False):
            trainer.fit_loop.epoch_loop.max_steps = trainer.global_step

    def on_load_checkpoint(self, trainer: pl.Trainer, module: Any, checkpoint: dict[str, Any]) -> None:
        if checkpoint["callbacks"].get(self.state_key, {}).get("seconds", 0) >= 60 * self.minutes:
            trainer.fit_loop.epoch_loop.max_steps = checkpoint["global_step"]  # the run is complete: no step is left

    @property
    def seconds(self) -> float:
        """The time spent, in seconds, over all restarts."""
        return self._spent + monotonic() - self._start

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._spent = state_dict["seconds"]
