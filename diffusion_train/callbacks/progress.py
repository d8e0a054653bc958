"""One line of progress: loss, samples a second, time left."""

from __future__ import annotations

import sys
from datetime import timedelta
from time import monotonic
from typing import Any

import pytorch_lightning as pl
from tqdm import tqdm

from diffusion_train.callbacks.scalars import Scalars
from diffusion_train.callbacks.throughput import Throughput


class Progress(pl.Callback):
    """A tqdm line on a terminal; elsewhere (a log file) a plain line every `every_n_seconds`."""

    def __init__(self, every_n_seconds: float = 30.0) -> None:
        self.every_n_seconds = every_n_seconds
        self._bar: tqdm[Any] | None = None

    def on_train_start(self, trainer: pl.Trainer, module: Any) -> None:
        self._first_step, self._start, self._printed = trainer.global_step, monotonic(), monotonic()
        if not trainer.is_global_zero:
            return
        total = trainer.max_steps if trainer.max_steps > 0 else None
        if sys.stderr is not None and sys.stderr.isatty():
            self._bar = tqdm(total=total, initial=trainer.global_step, unit="step", dynamic_ncols=True, leave=True)

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if not trainer.is_global_zero:
            return
        figures = _figures(trainer)
        if self._bar is not None:
            self._bar.set_postfix_str(figures, refresh=False)
            self._bar.update()
        elif monotonic() - self._printed > self.every_n_seconds or trainer.global_step == trainer.max_steps:
            self._printed = monotonic()
            total = f"/{trainer.max_steps}" if trainer.max_steps > 0 else ""
            say(f"step {trainer.global_step}{total}  {figures}{self._left(trainer)}")

    def _left(self, trainer: pl.Trainer) -> str:
        done, left = trainer.global_step - self._first_step, trainer.max_steps - trainer.global_step
        if left <= 0 or not done:
            return ""
        return f"  {timedelta(seconds=round((monotonic() - self._start) / done * left))} left"

    def on_train_end(self, trainer: pl.Trainer, module: Any) -> None:
        self._close()

    def on_exception(self, trainer: pl.Trainer, module: Any, exception: BaseException) -> None:
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def _figures(trainer: pl.Trainer) -> str:
    figures = []
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, Scalars) and callback.last_loss == callback.last_loss:
            figures.append(f"loss {callback.last_loss:.4f}")
        if isinstance(callback, Throughput) and callback.samples_per_second:
            figures.append(f"{callback.samples_per_second:,.0f} samples/s")
    return "  ".join(figures)


def say(text: str) -> None:
    """A line on stderr that leaves a progress line whole; a closed stream is no error."""
    try:
        tqdm.write(text, file=sys.stderr)
    except (OSError, ValueError, AttributeError):
        pass
