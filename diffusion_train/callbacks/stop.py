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

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name))


class GracefulStop(pl.Callback):
    """The first signal sets a flag, on which all ranks agree at the end of the step; the second one ends at once.

    What is saved, validated and drawn at the end is not cut short by the first one either.
    """

    def __init__(self) -> None:
        self._asked = self._is_ending = False
        self._group: Any = None
        self._before: dict[int, Any] = {}  # handlers

    def setup(self, trainer: pl.Trainer, module: Any, stage: str) -> None:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.getsignal(number) for number in SIGNALS}

    def on_train_start(self, trainer: pl.Trainer, module: Any) -> None:
        if trainer.world_size > 1:
            self._group = torch.distributed.new_group(backend="gloo")
        for number in self._before:
            signal.signal(number, self._ask)  # in the place of Lightning's own

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self._asked:
            self._restore()
            raise KeyboardInterrupt
        self._asked = True
        what = "the run is at its end, and is being saved" if self._is_ending else "saving after this step"
        say(f"{signal.Signals(number).name}: {what}; once more to leave at once")

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self._any_rank_asked():
            trainer.should_stop = True

    def _any_rank_asked(self) -> bool:
        if self._group is None:
            return self._asked
        flag = torch.tensor(int(self._asked))  # on the CPU: the device is not made to wait
        torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MAX, group=self._group)
        return bool(flag)

    def on_train_end(self, trainer: pl.Trainer, module: Any) -> None:
        self._is_ending = True

    def on_fit_end(self, trainer: pl.Trainer, module: Any) -> None:
        if self._group is not None:
            torch.distributed.barrier(self._group)  # a launcher takes all processes down once one has ended
        self._restore()

    def on_exception(self, trainer: pl.Trainer, module: Any, exception: BaseException) -> None:
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
