"""The training step of a diffusion model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from time import monotonic
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from diffusion_train.autoencoder.base import Autoencoder
from diffusion_train.conditioner.base import Conditioner, drop
from diffusion_train.diffusion.process import GaussianDiffusion, Loss
from diffusion_train.training.ema import EMA
from diffusion_train.training.finite import replace_rows
from diffusion_train.training.optimizer import Optimization, is_fused, step_back
from diffusion_train.training.weights import checkpoint_weights, load_exactly, trainable_modules, trainable_state
from diffusion_train.utils.ranges import fraction
from diffusion_train.utils.rng import Rng, seed_torch
from diffusion_train.utils.tensor import AsyncCopy

Batch = dict[str, Any]


class DiffusionModule(pl.LightningModule):
    """Trains `network`, and `conditioner` if it is adapted, on the diffusion loss; one batch is one optimizer step.

    A batch is this rank's slice of the global batch. It is split into micro-batches here, not by Lightning's gradient
    accumulation, so that steps, logs and resuming do not depend on the micro-batch size or the number of ranks.
    """

    def __init__(
        self,
        network: nn.Module,
        diffusion: GaussianDiffusion,
        conditioner: Conditioner,
        autoencoder: Autoencoder,
        optimization: Optimization,
        ema: EMA,
        condition_dropout: float = 0.0,
        seed: int = 0,
        micro_batch_size: int | None = None,
    ) -> None:
        super().__init__()
        fraction(condition_dropout=condition_dropout)
        self.automatic_optimization = False
        self.strict_loading = False  # frozen weights are not in checkpoints; `load_exactly` is strict about the rest
        self.network, self.conditioner, self.autoencoder = network, conditioner, autoencoder
        self.diffusion, self.optimization, self.ema = diffusion, optimization, ema
        self.condition_dropout, self.seed = condition_dropout, seed
        self.micro_batch_size = micro_batch_size
        self._count_skips(torch.zeros(()))
        self.grad_norm = torch.zeros(())
        self.idle_since: float | None = None
        self.is_between_states = False  # weights have moved, but not yet all that is saved with them
        self._saved_optimizer: str | None = None  # the class of the optimizer in the checkpoint
        for frozen in (autoencoder,) if conditioner.adapted else (autoencoder, conditioner):
            frozen.eval().requires_grad_(False)

    @property
    def trainable_modules(self) -> nn.Module:
        return trainable_modules(self.network, self.conditioner)

    def configure_optimizers(self) -> Any:
        return self.optimization.configure(self.network, self.conditioner)

    def on_fit_start(self) -> None:
        self.ema.attach(self.trainable_modules)

    def on_train_start(self) -> None:
        self._apply_optimizer_settings()
        self.network.train()
        self.conditioner.train(self.conditioner.adapted)
        self.autoencoder.eval()

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Note the time; Lightning calls this after the callbacks, so from now on only data is waited for."""
        self.idle_since = monotonic()

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Run one optimizer step; return loss, noise_mse and t, each (rows of this rank,), and the scalar grad_norm.

        `finite` (rows of this rank,) says which samples have finite latents and conditions. The others are replaced by
        a sample of the same micro-batch; if it has none, the gradient is not finite either and the step is skipped.
        """
        rows, losses, whole = len(batch["index"]), [], []
        for number, (micro, rng, last) in enumerate(self._micro_batches(batch)):
            with self._gradient_sync(last):
                seed_torch(self.seed, "dropout", self.global_step, self.global_rank, number)
                x0, cond, finite = replace_rows(*self.prepare(micro, rng))
                loss = self.loss(x0, cond, rng)
                self.manual_backward(loss.loss.sum() / rows)
            losses.append(loss)
            whole.append(finite)
        self._optimizer_step()
        return {
            "loss": torch.cat([loss.loss.detach() for loss in losses]),
            "noise_mse": torch.cat([loss.noise_mse.detach() for loss in losses]),
            "t": torch.cat([loss.t for loss in losses]),
            "grad_norm": self.grad_norm,
            "finite": torch.cat(whole),
        }

    def loss(self, x0: Tensor, cond: dict[str, Tensor], rng: Rng) -> Loss:
        """Return the loss of x0 (B, ...) with its conditions, of which `condition_dropout` are dropped."""
        if self.condition_dropout > 0:
            keep = rng.uniform("condition", x0.device) >= self.condition_dropout
            cond = drop(cond, self.conditioner.null(len(x0)), keep)
        return self.diffusion.loss(self.network, x0, rng, **cond)

    def prepare(self, batch: Batch, rng: Rng | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the clean latents (B, ...) of a batch, sampled with `rng` if given, and its conditions."""
        with torch.no_grad():
            if "moments" in batch:
                latents = self.autoencoder.latents(batch["moments"].view(self.autoencoder.dtype).float(), rng)
            else:
                latents = self.autoencoder.encode(batch["x"], rng)
        return latents.to(self.conditioner.like.dtype), self.conditioner(batch)

    def _micro_batches(self, batch: Batch) -> Iterator[tuple[Batch, Rng, bool]]:
        """Yield each micro-batch, the Rng of its rows of the global batch, and whether it is the last."""
        rows = len(batch["index"])
        size = self.micro_batch_size or rows
        first, num_rows = self.global_rank * rows, self.trainer.world_size * rows
        for start in range(0, rows, size):
            stop = min(start + size, rows)
            rng = Rng.at_step(self.seed, self.global_step, range(first + start, first + stop), num_rows)
            yield {name: value[start:stop] for name, value in batch.items()}, rng, stop == rows

    def _gradient_sync(self, last: bool) -> AbstractContextManager[None]:
        """Return a context in which ranks exchange gradients only with the last micro-batch."""
        model = self.trainer.strategy.model
        return nullcontext() if last or not isinstance(model, DistributedDataParallel) else model.no_sync()

    def _optimizer_step(self) -> None:
        """Step the optimizer, the learning rate and the averages; if the gradient is not finite, none of them moves."""
        optimizer: Any = self.optimizers()
        lr_schedule: Any = self.lr_schedulers()
        self.is_between_states = True
        if self._skips.tolist():  # of the step before: waiting for this step's would leave a GPU idle
            step_back(lr_schedule)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        lr_schedule.step()
        finite = torch.isfinite(self.grad_norm)
        self.ema.update(self.global_step, finite)
        self._count_skips(torch.where(finite, 0.0, self.skipped_in_a_row.to(finite.device) + 1))
        self.is_between_states = False

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Clip the gradient and note its norm before that. If it is not finite, the step changes no weight.

        By now Lightning has divided the gradients of float16 by their scale, except those of fused optimizers.
        """
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        if scaler is not None and is_fused(optimizer):
            scaler.unscale_(optimizer)
        self.grad_norm = self.optimization.clip(self.trainable_modules)
        if scaler is None:
            self.optimization.skip_unless(optimizer, torch.isfinite(self.grad_norm))

    def _count_skips(self, skipped_in_a_row: Tensor) -> None:
        self.skipped_in_a_row, self._skips = skipped_in_a_row, AsyncCopy(skipped_in_a_row)

    def _apply_optimizer_settings(self) -> None:
        """A resumed run has the configured settings; the state of an optimizer of another class is dropped."""
        optimizer: Any = self.optimizers()
        if self._saved_optimizer not in (None, type(optimizer.optimizer).__qualname__):
            optimizer.optimizer.state.clear()
        self.optimization.apply_settings(optimizer.optimizer, self.lr_schedulers())  # type: ignore[arg-type]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        prefix = "" if self.conditioner.adapted else "network."
        checkpoint["state_dict"] = {
            prefix + name: value for name, value in trainable_state(self.trainable_modules).items()
        }
        checkpoint["ema"] = self.ema.state_dict()
        checkpoint["skipped_in_a_row"] = self.skipped_in_a_row.cpu()
        checkpoint["optimizer_class"] = type(self.trainer.optimizers[0]).__qualname__

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.trainer.precision_plugin.convert_module(
            self.trainable_modules
        )  # Lightning converts only after restoring: float64 would be rounded
        load_exactly(self.trainable_modules, checkpoint_weights(checkpoint), trainable_state(self.trainable_modules))
        self.ema.load_state_dict(checkpoint["ema"])
        self._count_skips(checkpoint["skipped_in_a_row"])
        self._saved_optimizer = checkpoint.get("optimizer_class")
