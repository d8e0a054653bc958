"""Saves the run: checkpoints to resume from and weights to sample from."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.loggers import WandbLogger

from diffusion_train import __version__
from diffusion_train.callbacks.scalars import NumericalError
from diffusion_train.data.storage.base import StorageError
from diffusion_train.logger.metrics_file import MetricsFile
from diffusion_train.run_folder import RunFolder, step_name
from diffusion_train.training.checkpoint.checkpoint_file import FreeSpace, peek, read_facts, write_again
from diffusion_train.training.checkpoint.checkpoint_folder import free_space, link_last, remove_surplus
from diffusion_train.training.checkpoint.fitting_state import check_state
from diffusion_train.training.module import DiffusionModule
from diffusion_train.training.resume import DECISIVE_GROUPS, mismatch
from diffusion_train.training.weights import save_weights, trainable_state
from diffusion_train.training.weights_header import FORMAT
from diffusion_train.utils import rng
from diffusion_train.utils.files import remove_strays
from diffusion_train.utils.process.interruption import OnAllRanks, Stopping
from diffusion_train.utils.ranges import at_least

_ORDER = ("seed", "data", "data.order", "data.batch_size")  # these determine which samples come next
# The command compares the decisive groups before it builds a model.
_MISMATCHES = (*_ORDER, "data.captions", "trainer.precision", "noise", *DECISIVE_GROUPS)


class NotSaved(StorageError, OnAllRanks):
    """The first process could not write a checkpoint; all processes raise it."""


def check_same_run(checkpoint: Path, trainer: pl.Trainer, module: DiffusionModule, datamodule: Any) -> None:
    """Raise ValueError if data or weights are not those of the checkpoint, before any logger starts a run."""
    saved = peek(checkpoint)
    check_state(saved, module, trainer.precision)
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, Checkpointing):
            callback.refuse_other_run(saved["diffusion_train"], trainer.precision, datamodule)


class Checkpointing(pl.Callback):
    """Saves checkpoints and weights every `every_n_steps` steps and after the last one.

    The newest `num_kept` checkpoints stay; `last.ckpt` is a link to the newest, where links can be made. On a full disk
    the oldest of them are deleted before the new one is written. `description` is plain data about the run, which each
    file holds: at least its `config`. Resuming raises ValueError if data, seed, batch size, precision or the version of
    the noise differ from the checkpoint's, except those that `allow_mismatch` names: then the data module continues
    with samples not drawn yet.
    """

    def __init__(
        self,
        run_dir: str | Path,
        every_n_steps: int,
        num_kept: int = 2,
        allow_mismatch: Sequence[str] = (),
        description: Mapping[str, Any] | None = None,
        after_saving: Callable[[], None] = lambda: None,
    ) -> None:
        at_least(1, every_n_steps=every_n_steps, num_kept=num_kept)
        if unknown := set(allow_mismatch) - set(_MISMATCHES):
            raise ValueError(
                f"allow_mismatch: unknown {', '.join(sorted(unknown))}; must be among {', '.join(_MISMATCHES)}"
            )
        self.run_dir, self.description = Path(run_dir), dict(description or {})
        self.every_n_steps, self.num_kept = every_n_steps, num_kept
        self.allow_mismatch = frozenset(allow_mismatch)
        self.after_saving = after_saving
        self.saved_step = self.saved_last_step = -1
        self.warned_of_links = False

    @property
    def folder(self) -> Path:
        return RunFolder(self.run_dir).checkpoints

    def on_fit_start(self, trainer: pl.Trainer, module: Any) -> None:
        if trainer.is_global_zero:
            self.folder.mkdir(parents=True, exist_ok=True)
            remove_strays(self.folder)
            remove_strays(self.run_dir)

    def on_train_start(self, trainer: pl.Trainer, module: Any) -> None:
        self.saved_step, self.saved_last_step = trainer.global_step, trainer.max_steps
        if trainer.is_global_zero:
            trainer.datamodule.save_manifest(self.folder)  # type: ignore[attr-defined]

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step % self.every_n_steps == 0:
            self.save(trainer, module)

    def on_train_end(self, trainer: pl.Trainer, module: Any) -> None:
        # a time budget may make this step the last one after it was saved: the checkpoint must hold that
        if (trainer.global_step, trainer.max_steps) != (self.saved_step, self.saved_last_step):
            self.save(trainer, module)

    def on_exception(self, trainer: pl.Trainer, module: Any, exception: BaseException) -> None:
        """Save the last completed step after any error but these: the run cannot be saved, or makes no progress.

        All processes must have stopped between the same steps. If only one fails, as in a callback, the others wait for
        it and nothing can be saved.
        """
        together = trainer.world_size == 1 or isinstance(exception, OnAllRanks)
        is_new = 0 <= self.saved_step < trainer.global_step
        saves = isinstance(exception, Exception) and not isinstance(exception, (NotSaved, NumericalError))
        if saves and together and is_new and not module.is_between_states:
            # the message of an error names the step that was saved before
            with nullcontext() if isinstance(exception, Stopping) else suppress(Exception):
                self.save(trainer, module)

    def save(self, trainer: pl.Trainer, module: Any) -> None:
        """Save the run; return when everything is written. Raises NotSaved in all processes if one cannot write."""
        fault = self._write(trainer, module)
        if trainer.strategy.reduce_boolean_decision(fault is not None, all=False):
            if fault is not None and not isinstance(fault, OSError):
                raise fault
            raise NotSaved(
                _reason(fault) if fault else "the first process cannot save the run; its message says why"
            ) from fault
        self.saved_step, self.saved_last_step = trainer.global_step, trainer.max_steps

    def _write(self, trainer: pl.Trainer, module: Any) -> Exception | None:
        """Write all files; return the error instead of raising it, so that the other processes do not wait."""
        name = step_name(trainer.global_step)
        try:
            trainer.save_checkpoint(self.folder / name, weights_only=False, storage_options=self._free_space(1))
        except Exception as fault:  # noqa: BLE001
            trainer.strategy.barrier()  # the others wait at it in `save_checkpoint`
            return fault
        if not trainer.is_global_zero:
            return None
        try:
            write_again(partial(self._write_weights, trainer, module), self._free_space(0))
            self.after_saving()
            self._point_last_at(name)
            self._remove_old(trainer.datamodule)  # type: ignore[attr-defined]
        except Exception as fault:  # noqa: BLE001
            return fault
        return None

    def _write_weights(self, trainer: pl.Trainer, module: Any) -> None:
        weights = trainable_state(module.trainable_modules) | module.ema.average()
        facts = {"step": trainer.global_step, "shape": list(trainer.datamodule.shape)}  # type: ignore[attr-defined]
        save_weights(RunFolder(self.run_dir).weights, weights, self.description | facts)

    def _free_space(self, num_new: int) -> FreeSpace:
        """Return what frees space on a full disk while `num_new` further checkpoints are written."""
        return partial(free_space, self.folder, self.num_kept - num_new)

    def _remove_old(self, datamodule: Any) -> None:
        """Delete old checkpoints first, then what only they needed: stopped in between, it leaves too much."""
        remove_surplus(self.folder, self.num_kept)
        with suppress(ValueError, RuntimeError, OSError):  # a checkpoint that cannot be read may need any of it
            datamodule.prune_manifests(self.folder, map(read_facts, self.folder.glob("*.ckpt")))

    def _point_last_at(self, name: str) -> None:
        if not link_last(self.folder, name) and not self.warned_of_links:
            self.warned_of_links = True
            warnings.warn(
                f"{self.folder}: links cannot be made here, so last.ckpt is left out; resume=auto does not need it",
                stacklevel=1,
            )

    def on_save_checkpoint(self, trainer: pl.Trainer, module: Any, checkpoint: dict[str, Any]) -> None:
        checkpoint["diffusion_train"] = {
            "format": FORMAT,
            "version": __version__,
            "step": trainer.global_step,
            "wandb_id": next((logger.version for logger in trainer.loggers if isinstance(logger, WandbLogger)), None),
            **trainer.datamodule.record(trainer.global_step),  # type: ignore[attr-defined]
            "identity": _identity(trainer.precision, trainer.datamodule),  # type: ignore[attr-defined]
            **self.description,
        }

    def on_load_checkpoint(self, trainer: pl.Trainer, module: Any, checkpoint: dict[str, Any]) -> None:
        saved = checkpoint["diffusion_train"]
        self.refuse_other_run(saved, trainer.precision, trainer.datamodule)  # type: ignore[attr-defined]
        trainer.datamodule.resume(saved["step"], saved, Path(trainer.ckpt_path).parent)  # type: ignore[attr-defined,arg-type]
        for logger in trainer.loggers:
            if isinstance(logger, MetricsFile):
                logger.rewind(saved["step"])

    def refuse_other_run(self, saved: dict[str, Any], precision: str, data: Any) -> None:
        """Raise ValueError that names what differs between the facts `saved` in a checkpoint and this run."""
        before, now = {"noise": "version 1"} | saved["identity"], _identity(precision, data)
        changed = [name for name, value in now.items() if before.get(name) != value]
        if refused := [name for name in changed if name not in self.allow_mismatch]:
            then = f": {data.resume_policy}" if set(changed) & set(_ORDER) else ""
            raise mismatch({name: (before.get(name), now[name]) for name in refused}, changed, then)
        if lacks := [name for name in data.record(0) if name not in saved]:
            raise ValueError(
                f"the checkpoint does not record the order of its data ({', '.join(lacks)}); runs with data=stream do "
                "not; start again in another run_dir"
            )


def _reason(fault: OSError) -> str:
    return f"{fault.filename}: {fault.strerror}" if fault.filename else str(fault)


def _identity(precision: str, data: Any) -> dict[str, Any]:
    """Return what must be equal in a checkpoint and the run that resumes from it."""
    return {"trainer.precision": precision, "noise": f"version {rng.VERSION}", **data.identity}
