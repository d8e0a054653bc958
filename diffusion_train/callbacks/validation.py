"""A validation loss on held-out samples with fixed noise and a fixed grid of noise levels."""

from __future__ import annotations

import warnings
from contextlib import nullcontext
from math import nan
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from diffusion_train.callbacks.scalars import log
from diffusion_train.callbacks.scheduled import Every, Scheduled
from diffusion_train.callbacks.stop import stoppable
from diffusion_train.pipeline import default_batch_size, evaluating, select_rows
from diffusion_train.training.finite import finite_rows
from diffusion_train.utils.ranges import at_least
from diffusion_train.utils.rng import Rng
from diffusion_train.utils.text import printable


class Validation(Scheduled):
    """Logs the unweighted noise error `val/noise_mse` of the weights and `val/noise_mse_ema...` of each average.

    Noise is added to each of the first `num_samples` held-out samples at each of `num_levels` log-SNRs, spaced evenly
    in [-max_log_snr, max_log_snr]. The noise is fixed for each pair of sample and level. The inputs are the same at
    every step, in every run and for every schedule and parameterization, so that curves of different configs can be
    compared. `batch_size` defaults to that of sampling. Samples whose latents or conditions are not finite are left out
    of the mean and named in a warning; `val/left_out` is their number.
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
        self._has_warned = False

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
                        prepared, left_out = stoppable(trainer, lambda: _prepared(module, held_out, batch_size))
                    scalars[name] = self._noise_mse(trainer, module, prepared, batch_size)
        if left_out:
            self._warn(trainer, left_out)
            scalars["val/left_out"] = len(left_out)
        log(trainer, scalars)

    def _warn(self, trainer: pl.Trainer, left_out: list[str]) -> None:
        if trainer.is_global_zero and not self._has_warned:
            self._has_warned = True
            warnings.warn(
                f"validation leaves out {len(left_out)} held-out samples, for which the autoencoder or the conditioner "
                f"returned NaN or infinite values: {printable(', '.join(left_out), 500)}",
                stacklevel=1,
            )

    def _noise_mse(self, trainer: pl.Trainer, module: Any, prepared: dict[str, Tensor], batch_size: int) -> float:
        rows = len(prepared["x0"]) * self.num_levels
        mine = range(trainer.global_rank, rows, trainer.world_size)

        def errors() -> Tensor:
            total = torch.zeros((), device=module.device, dtype=torch.float64)
            for start in range(0, len(mine), batch_size):
                total += self._errors(module, prepared, mine[start : start + batch_size]).double().sum()
            return total

        total = float(trainer.strategy.reduce(stoppable(trainer, errors), reduce_op="sum"))
        return total / rows if rows else nan

    def _errors(self, module: Any, prepared: dict[str, Tensor], rows: range) -> Tensor:
        """Return the noise MSE (len(rows),); row r is prepared sample r // num_levels at level r % num_levels."""
        samples, levels = zip(*(divmod(row, self.num_levels) for row in rows), strict=True)
        cond = {name: value.to(module.device) for name, value in select_rows(prepared, samples).items()}
        x0, numbers = cond.pop("x0"), cond.pop("number").tolist()
        log_snr = torch.linspace(-self.max_log_snr, self.max_log_snr, self.num_levels)[list(levels)]
        t = module.diffusion.schedule.t_at(log_snr).to(x0.device)
        keys = [number * self.num_levels + level for number, level in zip(numbers, levels, strict=True)]
        rng = Rng(("validation",), keys, len(rows))
        noise = rng.normal("noise", x0.shape[1:], x0.device).to(x0.dtype)
        return module.diffusion.loss_at(module.network, x0, noise, t, **cond).noise_mse


def _prepared(module: Any, held_out: dict[str, Any], batch_size: int) -> tuple[dict[str, Tensor], list[str]]:
    """Return `number`, `x0` and conditions of the finite samples by name, on the CPU, and the keys of the others.

    They are encoded once for all levels and averages. A sample's number is its position in `held_out`.
    """
    parts: list[dict[str, Tensor]] = []
    for rows in torch.arange(len(held_out["index"])).split(batch_size):
        batch = select_rows(held_out, rows.tolist())
        x0, cond = module.prepare({k: v.to(module.device) if isinstance(v, Tensor) else v for k, v in batch.items()})
        parts.append({name: value.cpu() for name, value in {"number": rows, "x0": x0, **cond}.items()})
    everything = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    finite = torch.stack([finite_rows(value) for value in everything.values()]).all(0)
    left_out = [key for key, whole in zip(held_out["key"], finite.tolist(), strict=True) if not whole]
    return {name: value[finite] for name, value in everything.items()}, left_out
