"""A validation loss on held-out samples with fixed noise and a fixed grid of noise levels."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from diffusion_train.callbacks.scalars import log
from diffusion_train.callbacks.scheduled import Every, Scheduled
from diffusion_train.callbacks.stop import stoppable
from diffusion_train.pipeline import default_batch_size, evaluating, select_rows
from diffusion_train.training.finite import check_latents
from diffusion_train.utils.ranges import at_least
from diffusion_train.utils.rng import Rng


class Validation(Scheduled):
    """Logs the unweighted noise error `val/noise_mse` of the weights and `val/noise_mse_ema...` of each average.

    Noise is added to each of the first `num_samples` held-out samples at each of `num_levels` log-SNRs, spaced evenly
    in [-max_log_snr, max_log_snr]. The noise is fixed for each pair of sample and level. The inputs are the same at
    every step, in every run and for every schedule and parameterization, so that curves of different configs can be
    compared. `batch_size` defaults to that of sampling.
    """

    title = "validation"

    def __init__(
        self,
        every: Every,
        num_samples: int = 64,
        num_levels: int = 8,
        max_log_snr: float = 6.0,
        batch_size: int | None = None,
    ) -> None:
        super().__init__(every)
        at_least(0, num_samples=num_samples)
        at_least(1, num_levels=num_levels, batch_size=1 if batch_size is None else batch_size)
        self.num_samples, self.num_levels, self.batch_size = num_samples, num_levels, batch_size
        self.max_log_snr = max_log_snr

    def act(self, trainer: pl.Trainer, module: Any) -> None:
        """Log the errors, with rows distributed over all ranks; do nothing if no samples are held out."""
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        held_out = stoppable(trainer, lambda: data.held_out(self.num_samples))
        if held_out is None:
            return
        averages = module.ema.names
        names = ["val/noise_mse", "val/noise_mse_ema", *(f"val/noise_mse_ema_{name}" for name in averages[1:])]
        contexts = [nullcontext(), *(module.ema.averaged(number) for number in range(len(averages)))]
        batch_size = self.batch_size or default_batch_size(held_out["x"].shape[1:])
        scalars: dict[str, float] = {}
        with torch.no_grad(), trainer.precision_plugin.forward_context():
            for name, weights in zip(names, contexts, strict=True):
                with weights, evaluating(module.network, module.conditioner):
                    if not scalars or module.conditioner.adapted:  # otherwise all weights share the inputs
                        prepared = stoppable(trainer, lambda: _prepared(module, held_out, batch_size))
                    scalars[name] = self._noise_mse(trainer, module, prepared, batch_size)
        log(trainer, scalars)

    def _noise_mse(self, trainer: pl.Trainer, module: Any, prepared: dict[str, Tensor], batch_size: int) -> float:
        rows = len(prepared["x0"]) * self.num_levels
        mine = range(trainer.global_rank, rows, trainer.world_size)

        def errors() -> Tensor:
            total = torch.zeros((), device=module.device, dtype=torch.float64)
            for start in range(0, len(mine), batch_size):
                total += self._errors(module, prepared, mine[start : start + batch_size]).double().sum()
            return total

        return float(trainer.strategy.reduce(stoppable(trainer, errors), reduce_op="sum")) / rows

    def _errors(self, module: Any, prepared: dict[str, Tensor], rows: range) -> Tensor:
        """Return the noise MSE (len(rows),); row r is sample r // num_levels at level r % num_levels."""
        samples, levels = zip(*(divmod(row, self.num_levels) for row in rows), strict=True)
        cond = {name: value.to(module.device) for name, value in select_rows(prepared, samples).items()}
        x0 = cond.pop("x0")
        log_snr = torch.linspace(-self.max_log_snr, self.max_log_snr, self.num_levels)[list(levels)]
        t = module.diffusion.schedule.t_at(log_snr).to(x0.device)
        rng = Rng(("validation",), rows, len(rows))
        noise = rng.normal("noise", x0.shape[1:], x0.device).to(x0.dtype)
        return module.diffusion.loss_at(module.network, x0, noise, t, **cond).noise_mse


def _prepared(module: Any, held_out: dict[str, Any], batch_size: int) -> dict[str, Tensor]:
    """Return `x0` and conditions of all samples by name, on the CPU, encoded once for all levels and averages."""
    parts = []
    for rows in torch.arange(len(held_out["index"])).split(batch_size):
        batch = select_rows(held_out, rows.tolist())
        x0, cond = module.prepare({k: v.to(module.device) if isinstance(v, Tensor) else v for k, v in batch.items()})
        check_latents(batch["key"], x0)
        parts.append({name: value.cpu() for name, value in {"x0": x0, **cond}.items()})
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
