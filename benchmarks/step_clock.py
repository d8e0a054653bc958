"""The clock of a run for step.py: it counts the FLOP of the first step, and ends the run after some steps.

It also works in an earlier checkout. What that one lacks to measure with is taken from this one.
"""

from __future__ import annotations

import importlib
import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

HERE = Path(__file__).resolve().parents[1]
for package in ("diffusion_train", "diffusion_train.utils.process"):
    importlib.import_module(package).__path__.append(str(HERE.joinpath(*package.split("."))))

from meter import Clock

from diffusion_train.bench.arithmetic import FlopCount, matmul_dtype, matmul_peak


class StepClock(Clock):
    """A Clock that ends the run after `warm_up` and `num_steps` steps, whatever length its settings have."""

    def __init__(self, file: str, warm_up: int, num_steps: int) -> None:
        super().__init__(file, warm_up)
        self.num_steps = num_steps
        self.flop, self.counting = FlopCount(), ExitStack()

    def on_train_batch_start(self, trainer: pl.Trainer, module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == 0:
            self.counting.enter_context(self.flop.counting(module.network))

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.counting.close()
        super().on_train_batch_end(trainer, module, outputs, batch, batch_idx)
        if trainer.global_step >= self.meter.warm_up + self.num_steps:
            trainer.should_stop = True

    def on_train_end(self, trainer: Any, module: Any) -> None:
        figures = self.meter.figures  # before the products of matrices take memory
        peak = matmul_peak(trainer.strategy.root_device, matmul_dtype(str(trainer.precision)))
        self.file.write_text(json.dumps({**figures, "flop": self.flop.total, "peak_flop": peak}))
