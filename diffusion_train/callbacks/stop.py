"""Graceful stop: Ctrl-C, SIGTERM and a cluster's SIGUSR1 save the run after the current step and end it."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed

from diffusion_train.callbacks.progress import say
from diffusion_train.utils.interruption import interrupt

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name))


class GracefulStop(pl.Callback):
    """Stops all ranks at the end of the current step after the first signal, and immediately after the second.

    The first signal does not interrupt saving, validation and sampling at the end of the run either. Lightning restores
    the previous signal handlers when it is done.
    """

    def __init__(self) -> None:
        self.asked = self._is_ending = False
        self._group: Any = None

    def on_train_start(self, trainer: pl.Trainer, module: Any) -> None:
        if trainer.world_size > 1:
            self._group = torch.distributed.new_group(backend="gloo")
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                signal.signal(number, self._ask)  # replaces Lightning's handler

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            interrupt(number)
        self.asked = True
        what = "the run is ending and will be saved" if self._is_ending else "saving after this step"
        say(f"{signal.Signals(number).name}: {what}; send it again to exit immediately")

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self._any_rank_asked():
            trainer.should_stop = True

    def _any_rank_asked(self) -> bool:
        if self._group is None:
            return self.asked
        flag = torch.tensor(int(self.asked))  # on the CPU, so that the device does not wait
        torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MAX, group=self._group)
        return bool(flag)

    def on_train_end(self, trainer: pl.Trainer, module: Any) -> None:
        self._is_ending = True
