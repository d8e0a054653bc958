"""A validation loss that means something: held-out samples, fixed noise, a fixed grid of noise levels."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from diffusion_train.callbacks.scalars import log
from diffusion_train.callbacks.scheduled import Every, Scheduled
from diffusion_train.pipeline import evaluating, take
from diffusion_train.utils.rng import Rng


class Validation(Scheduled):
    """Logs `val/noise_mse` of the weights and `val/noise_mse_ema...` of each average, without training's weighting.

    Each of the first `num_samples` held-out samples is noised at every one of `num_levels` log-SNRs, spaced evenly in
    [-max_log_snr, max_log_snr], with noise of its own: the same inputs at every step, in every run and for every
    schedule and parameterization, so that curves of different recipes compare.
    """

    def __init__(
        self, every: Every, num_samples: int = 64, num_levels: int = 8, max_log_snr: float = 6.0, batch_size: int = 64
    ) -> None:
        super().__init__(every)
        self.num_samples, self.num_levels, self.batch_size = num_samples, num_levels, batch_size
        self.max_log_snr = max_log_snr

    def act(self, trainer: pl.Trainer, module: Any) -> None:
        held_out = trainer.datamodule.held_out(self.num_samples)  # type: ignore[attr-defined]
        if held_out is None:
            return
        averages = module.ema.names
        names = ["val/noise_mse", "val/noise_mse_ema", *(f"val/noise_mse_ema_{name}" for name in averages[1:])]
        contexts = [nullcontext(), *(module.ema.averaged(number) for number in range(len(averages)))]
        scalars = {}
        for name, weights in zip(names, contexts, strict=True):
            with weights, torch.no_grad(), trainer.precision_plugin.forward_context():
                scalars[name] = self._noise_mse(trainer, module, held_out)
        log(trainer, scalars)

    def _noise_mse(self, trainer: pl.Trainer, module: Any, held_out: dict[str, Any]) -> float:
        rows = len(held_out["index"]) * self.num_levels
        mine = range(trainer.global_rank, rows, trainer.world_size)
        total = torch.zeros((), device=module.device, dtype=torch.float64)
        with evaluating(module.network, module.conditioner):
            for start in range(0, len(mine), self.batch_size):
                total += self._errors(module, held_out, mine[start : start + self.batch_size]).double().sum()
        if trainer.world_size > 1:
            total = trainer.strategy.reduce(total, reduce_op="sum")
        return float(total) / rows

    def _errors(self, module: Any, held_out: dict[str, Any], rows: range) -> Tensor:
        """Row r is sample r // num_levels at level r % num_levels; -> noise MSE (len(rows),)."""
        samples, levels = zip(*(divmod(row, self.num_levels) for row in rows), strict=True)
        batch = take(held_out, samples)
        batch = {name: v.to(module.device) if isinstance(v, Tensor) else v for name, v in batch.items()}
        x0, cond = module.prepare(batch)
        x0 = x0.to(next(module.network.parameters()).dtype)
        log_snr = torch.linspace(-self.max_log_snr, self.max_log_snr, self.num_levels)[list(levels)]
        t = module.diffusion.schedule.t_at(log_snr).to(x0.device)
        rng = Rng([("validation", row) for row in rows], ("validation",), rows, len(rows))
        noise = rng.normal("noise", x0.shape[1:], x0.device).to(x0.dtype)
        return module.diffusion.loss_at(module.network, x0, noise, t, **cond).noise_mse
