"""Samples per second, and the fraction of time spent waiting for data."""

from __future__ import annotations

from time import monotonic
from typing import Any

import pytorch_lightning as pl

from diffusion_train.callbacks.scalars import is_logged, log


class Throughput(pl.Callback):
    """Logs `perf/samples_per_second` of all devices and `perf/data_wait`, a fraction of the time in [0, 1].

    Only training counts. The time of sample grids, validation and checkpoints is excluded because this callback comes
    before theirs.
    """

    def __init__(self) -> None:
        self.samples_per_second = 0.0
        self._reset()

    def _reset(self) -> None:
        self._rows, self._waiting, self._working = 0, 0.0, 0.0

    def on_train_batch_start(self, trainer: pl.Trainer, module: Any, batch: Any, batch_idx: int) -> None:
        self._batch_start = monotonic()
        if module.idle_since is not None:
            self._waiting += self._batch_start - module.idle_since

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self._working += monotonic() - self._batch_start
        self._rows += len(batch["index"]) * trainer.world_size
        if is_logged(trainer) and (seconds := self._waiting + self._working) > 0:
            self.samples_per_second = self._rows / seconds
            log(
                trainer,
                {"perf/samples_per_second": self.samples_per_second, "perf/data_wait": self._waiting / seconds},
            )
            self._reset()
