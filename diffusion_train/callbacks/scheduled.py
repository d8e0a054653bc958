"""Callbacks that act at given steps and at the end of a run."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from dataclasses import dataclass
from time import monotonic
from typing import Any, ClassVar

import pytorch_lightning as pl

from diffusion_train.utils.process.interruption import Stopping
from diffusion_train.utils.ranges import at_least

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Every:
    """When a callback acts: every `num_steps` steps (0: never), at step `first` (0: none), at the last if `at_end`."""

    num_steps: int = 0
    first: int = 0
    at_end: bool = True

    def __post_init__(self) -> None:
        at_least(0, num_steps=self.num_steps, first=self.first)

    def during(self, trainer: pl.Trainer) -> bool:
        """Return whether the callback acts after the current step, which is not the last."""
        step = trainer.global_step
        return step == self.first or (self.num_steps > 0 and step % self.num_steps == 0 and not self.last(trainer))

    def last(self, trainer: pl.Trainer) -> bool:
        """Return whether the callback acts at the end of the run; false if the run was stopped before its end."""
        return self.at_end and trainer.global_step == trainer.max_steps


class Scheduled(pl.Callback, ABC):
    """Calls `act` at the steps of `every`.

    At the end of the run it acts after the last checkpoint is saved, if it comes after Checkpointing in the callbacks.
    Work that may take long is given to `callbacks.stop.stoppable`, so that a signal need not wait for it. `title` names
    the callback in messages.
    """

    title: ClassVar[str] = ""

    def __init__(self, every: Every) -> None:
        self.every = every
        self.seconds: float | None = None  # that `act` took when it was last called

    @abstractmethod
    def act(self, trainer: pl.Trainer, module: Any) -> None:
        """Act; called on all ranks, between optimizer steps."""

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self.every.during(trainer):
            self._act(trainer, module)

    def on_train_end(self, trainer: pl.Trainer, module: Any) -> None:
        if self.every.last(trainer):
            self._act(trainer, module)

    def _act(self, trainer: pl.Trainer, module: Any) -> None:
        start = monotonic()
        try:
            self.act(trainer, module)
            self.seconds = monotonic() - start
        except Stopping:
            if trainer.is_global_zero:
                log.warning(
                    "%s: left out at step %d, because the run is stopping", type(self).__name__, trainer.global_step
                )
