"""How often requests to storage were repeated."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch

from diffusion_train.callbacks.scalars import is_logged, log


class Retries(pl.Callback):
    """Logs `data/retries`, the repeated requests for training batches since this start, of all ranks and workers."""

    def __init__(self) -> None:
        self._counted = torch.zeros((), dtype=torch.int64)

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if "retries" not in batch:  # data=stream does not count retries
            return
        self._counted = self._counted.to(batch["retries"].device) + batch["retries"].sum()
        if is_logged(trainer):
            of_all = trainer.strategy.reduce(self._counted.float(), reduce_op="sum")
            log(trainer, {"data/retries": int(of_all)})
