"""Callbacks that act at some steps and at the end of a run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl


@dataclass(frozen=True)
class Every:
    """When a callback acts: each `num_steps`th step (0: never), an early `first` one (0: none), the last if `at_end`."""

    num_steps: int = 0
    first: int = 0
    at_end: bool = True

    def during(self, trainer: pl.Trainer) -> bool:
        step = trainer.global_step
        return step == self.first or (self.num_steps > 0 and step % self.num_steps == 0 and not self.last(trainer))

    def last(self, trainer: pl.Trainer) -> bool:
        """The run has come to its end; false where it was stopped on the way."""
        return self.at_end and trainer.global_step == trainer.max_steps


class Scheduled(pl.Callback, ABC):
    """Calls `act` whenever `every` says; at the end after the last checkpoint is saved, if it comes later in the list."""

    def __init__(self, every: Every) -> None:
        self.every = every

    @abstractmethod
    def act(self, trainer: pl.Trainer, module: Any) -> None:
        """Called on all ranks, between optimizer steps."""

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self.every.during(trainer):
            self.act(trainer, module)

    def on_train_end(self, trainer: pl.Trainer, module: Any) -> None:
        if self.every.last(trainer):
            self.act(trainer, module)
