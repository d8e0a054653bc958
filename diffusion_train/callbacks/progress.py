"""Progress on one line: step, loss, samples per second, time left."""

from __future__ import annotations

import sys
from contextlib import suppress
from datetime import timedelta
from time import monotonic
from typing import Any

import pytorch_lightning as pl
from tqdm import tqdm

from diffusion_train.callbacks.scalars import Scalars
from diffusion_train.callbacks.scheduled import Scheduled
from diffusion_train.callbacks.throughput import Throughput
from diffusion_train.callbacks.time_budget import TimeBudget


class Progress(pl.Callback):
    """Shows a progress bar on a terminal, and prints a line every `every_n_seconds` elsewhere, as in a log file.

    The time left includes the work after the last step, such as samples and validation, if this run has measured it.
    Work that was not measured is named instead; with `report`, the run's report is named too.
    """

    def __init__(self, every_n_seconds: float = 15.0, report: bool = False) -> None:
        self.every_n_seconds, self.report = every_n_seconds, report
        self._bar: tqdm[Any] | None = None

    def on_train_start(self, trainer: pl.Trainer, module: Any) -> None:
        self._first_step, self._start, self._printed_at = trainer.global_step, monotonic(), monotonic()
        if trainer.is_global_zero and sys.stderr is not None and sys.stderr.isatty():
            shape = "{percentage:3.0f}%|{bar:20}| {desc}"
            self._bar = tqdm(total=1.0, bar_format=shape, dynamic_ncols=True, mininterval=0.2)

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if not trainer.is_global_zero:
            return
        if self._bar is not None:
            self._bar.set_description_str(self._line(trainer), refresh=False)
            self._bar.update(max(0.0, self._fraction_done(trainer) - self._bar.n))
        elif monotonic() - self._printed_at > self.every_n_seconds or trainer.global_step == trainer.max_steps:
            self._printed_at = monotonic()
            say(self._line(trainer))

    def _line(self, trainer: pl.Trainer) -> str:
        parts = [f"step {trainer.global_step:,}", *_figures(trainer)]
        if (left := self._seconds_left(trainer)) is not None:
            seconds, unmeasured = self._after_last_step(trainer)
            then = f" + {', '.join(unmeasured)}" if unmeasured else ""
            parts.append(f"{timedelta(seconds=round(left + seconds))}{then} left")
        return "  ".join(parts)

    def _after_last_step(self, trainer: pl.Trainer) -> tuple[float, list[str]]:
        """Return the seconds that measured work after the last step takes, and the names of the other work."""
        callbacks = trainer.callbacks  # type: ignore[attr-defined]
        work = [callback for callback in callbacks if isinstance(callback, Scheduled) and callback.every.at_end]
        unmeasured = [callback.title for callback in work if callback.seconds is None]
        return sum(callback.seconds or 0.0 for callback in work), [*unmeasured, *["report"] * self.report]

    def _fraction_done(self, trainer: pl.Trainer) -> float:
        fractions = [trainer.global_step / trainer.max_steps if trainer.max_steps > 0 else 0.0]
        fractions += [budget.seconds / (60 * budget.minutes) for budget in _budgets(trainer)]
        return min(1.0, max(fractions))

    def _seconds_left(self, trainer: pl.Trainer) -> float | None:
        left = [60 * budget.minutes - budget.seconds for budget in _budgets(trainer)]
        if trainer.max_steps > 0:
            pace = (monotonic() - self._start) / (trainer.global_step - self._first_step)
            left.append(pace * (trainer.max_steps - trainer.global_step))
        return max(0.0, min(left)) if left else None

    def on_train_end(self, trainer: pl.Trainer, module: Any) -> None:
        self._close()

    def on_exception(self, trainer: pl.Trainer, module: Any, exception: BaseException) -> None:
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def _budgets(trainer: pl.Trainer) -> list[TimeBudget]:
    return [callback for callback in trainer.callbacks if isinstance(callback, TimeBudget)]  # type: ignore[attr-defined]


def _figures(trainer: pl.Trainer) -> list[str]:
    figures = []
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, Scalars) and callback.last_loss is not None:
            figures.append(f"loss {callback.last_loss:.4f}")
        if isinstance(callback, Throughput) and callback.samples_per_second:
            figures.append(f"{callback.samples_per_second:,.0f} samples/s")
    return figures


def say(text: str) -> None:
    """Print a line on stderr without breaking a progress bar; a closed stream is ignored."""
    with suppress(OSError, ValueError, AttributeError):
        tqdm.write(text, file=sys.stderr)
