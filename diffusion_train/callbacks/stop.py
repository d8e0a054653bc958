"""Stopping in time: Ctrl-C, SIGTERM and a cluster's warning end the run after the step at hand, saved."""

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
    """The first signal sets a flag, on which all ranks agree at the end of the step; the second one ends at once.

    What is saved, validated and drawn at the end is not cut short by the first one either. Lightning puts the handlers
    of before back when it is done.
    """

    def __init__(self) -> None:
        self.asked = self._is_ending = False
        self._group: Any = None

    def on_train_start(self, trainer: pl.Trainer, module: Any) -> None:
        if trainer.world_size > 1:
            self._group = torch.distributed.new_group(backend="gloo")
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                signal.signal(number, self._ask)  # in the place of Lightning's own

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            interrupt(number)
        self.asked = True
        what = "the run is at its end, and is being saved" if self._is_ending else "saving after this step"
        say(f"{signal.Signals(number).name}: {what}; once more to leave at once")

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self._any_rank_asked():
            trainer.should_stop = True

    def _any_rank_asked(self) -> bool:
        if self._group is None:
            return self.asked
        flag = torch.tensor(int(self.asked))  # on the CPU: the device is not made to wait
        torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MAX, group=self._group)
        return bool(flag)

    def on_train_end(self, trainer: pl.Trainer, module: Any) -> None:
        self._is_ending = True
