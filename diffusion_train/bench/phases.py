"""The phases of a training step, from data to callbacks."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.profilers import Profiler

from diffusion_train.bench.clock import PhaseClock

# In the order of a step; "other" is Lightning's loop, and what is left of a training step: micro-batches and seeds.
PHASES = (
    *("data wait", "transfer", "conditions", "forward", "backward", "optimizer", "averages"),
    *("logging", "callbacks", "other"),
)


class PhaseProfiler(Profiler):
    """Tells a clock which phase holds, by the names of actions that Lightning gives its profilers."""

    def __init__(self, clock: PhaseClock) -> None:
        super().__init__()
        self.clock = clock

    def start(self, action_name: str) -> None:
        if phase := _phase(action_name):
            self.clock.enter(phase)

    def stop(self, action_name: str) -> None:
        if _phase(action_name):
            self.clock.leave()


def _phase(action: str) -> str | None:
    """Return the phase of an action of Lightning; None if it belongs to the phase that holds."""
    if action.endswith("train_dataloader_next"):
        return "data wait"
    if action.endswith(("batch_to_device", "batch_transfer")):
        return "transfer"
    return "callbacks" if action.startswith("[Callback]") else None


def watch(trainer: pl.Trainer, module: Any, clock: PhaseClock) -> None:
    """Let `clock` divide the time of this run's steps."""
    trainer.profiler = PhaseProfiler(clock)  # type: ignore[attr-defined]
    for phase, name in (
        ("conditions", "prepare"),
        ("forward", "loss"),
        ("backward", "manual_backward"),
        ("optimizer", "_optimizer_step"),
    ):
        setattr(module, name, clock.timed(phase, getattr(module, name)))
    module.ema.update = clock.timed("averages", module.ema.update)
    for logger in trainer.loggers:
        logger.log_metrics = clock.timed("logging", logger.log_metrics)  # type: ignore[method-assign]
