"""Graceful stop: Ctrl-C, SIGTERM and a cluster's SIGUSR1 save the run after the current step and end it."""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType
from typing import Any, TypeVar

import pytorch_lightning as pl
import torch
import torch.distributed

from diffusion_train.training.rank_processes import PASSED_ON, pass_on
from diffusion_train.utils.process.interruption import (
    SIGNALS,
    Stopping,
    announce,
    exit_code,
    in_main_thread,
    interrupt,
    leave_soon,
    stop_request,
)

T = TypeVar("T")


class GracefulStop(pl.Callback):
    """Stops all ranks after the current step at the first signal, and immediately at the second.

    A signal ends waiting for data and the work given to `stoppable` at once, but not saving. Signals before the end of
    the first step interrupt the process. The callback comes after Checkpointing, so that the run is saved before it
    acts.
    """

    def __init__(self) -> None:
        self.asked = self.has_stopped = False
        self._is_listening = self._is_signaled = self._is_saved = False
        self._group: Any = None

    def on_train_start(self, trainer: pl.Trainer, module: Any) -> None:
        stop_request.is_made = False
        self._trainer = trainer
        if trainer.world_size > 1:
            self._group = torch.distributed.new_group(backend="gloo")
            if in_main_thread():
                signal.signal(PASSED_ON, lambda number, frame: self._ask())

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if not self._is_listening and in_main_thread():
            self._is_listening = True
            for number in SIGNALS:
                signal.signal(number, self._handle)
        self.agree()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._is_signaled:
            interrupt(number)
        self._is_signaled = True  # `asked` may be another rank's signal, passed on before this one's
        what = "the run is saved and ending" if self._is_saved else "saving after this step"
        try:
            self._ask()
        finally:
            announce(f"{signal.Signals(number).name}: {what}; send it again to exit immediately")

    def _ask(self) -> None:
        if not self.asked:
            self.asked = True
            pass_on(self._trainer)
        if self._is_saved:
            leave_soon(exit_code(signal.SIGTERM))
        stop_request.make()

    def agree(self) -> bool:
        """Return whether any rank was asked to stop; if so, no further step begins."""
        if not self.has_stopped:
            flag = torch.tensor(int(self.asked))  # on the CPU, so that the device does not wait
            if self._group is not None:
                torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MAX, group=self._group)
            self.has_stopped = bool(flag)
            self._trainer.should_stop |= self.has_stopped
        return self.has_stopped

    def on_train_end(self, trainer: pl.Trainer, module: Any) -> None:
        self._is_saved = True
        if self.asked:
            leave_soon(exit_code(signal.SIGTERM))

    def on_exception(self, trainer: pl.Trainer, module: Any, exception: BaseException) -> None:
        self.on_train_end(trainer, module)
        stop_request.is_made = False

    def teardown(self, trainer: pl.Trainer, module: Any, stage: str) -> None:
        stop_request.is_made = False


def stoppable(trainer: pl.Trainer, work: Callable[[], T]) -> T:
    """Return what `work` returns. Raises Stopping on all ranks if one of them is asked to stop before all are done.

    All ranks must call it. The work may end between any two lines, so it must neither communicate with other ranks,
    nor change the state of the run, nor write files.
    """
    stop = next((callback for callback in trainer.callbacks if isinstance(callback, GracefulStop)), None)  # type: ignore[attr-defined]
    if stop is None:
        return work()
    try:
        if not stop.has_stopped:
            with stop_request.stoppable():
                result = work()
    except Stopping:
        pass
    if stop.agree():
        raise Stopping
    return result
