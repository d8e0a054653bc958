"""Records bad samples in a file and in the logs, and aborts the run if there are too many."""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from diffusion_train.callbacks.progress import say
from diffusion_train.callbacks.scalars import is_logged, log
from diffusion_train.data.shard.problem import Problem
from diffusion_train.utils.process.interruption import OnAllRanks
from diffusion_train.utils.tensor import AsyncCopy

_NOT_FINITE = ("not-finite", "", "the autoencoder or the conditioner returned NaN or infinite values")


class TooManyBadSamples(RuntimeError, OnAllRanks):
    """So many samples were left out or replaced that the run no longer trains on what its config says."""


class BadSamples(pl.Callback):
    """Writes a line for each bad sample (shard, key, offset, reason) to `bad_samples.jsonl`; logs `data/bad_samples`.

    Whether the autoencoder and the conditioner returned numbers is read one step later, so that no step waits for the
    device. Raises TooManyBadSamples on all ranks if more than the fraction `max_share` of the data set is bad.
    """

    def __init__(self, run_dir: str | Path, max_share: float = 0.01) -> None:
        if not 0 <= max_share <= 1:
            raise ValueError(f"callbacks.bad_samples.max_share={max_share}: must be in [0, 1]")
        self.path, self.max_share = Path(run_dir) / "bad_samples.jsonl", max_share
        self._before: set[str] = set()  # found before the run was resumed
        self._met: set[str] = set()  # found by this process
        self._last: tuple[list[str], AsyncCopy] | None = None  # keys, and whether their latents are finite

    def on_train_start(self, trainer: pl.Trainer, module: Any) -> None:
        """Begin the file of a new run with the samples that the index left out; read that of a resumed run."""
        if trainer.global_step and self.path.exists():
            self._before = set(self.path.read_text("utf-8").splitlines())
        elif trainer.is_global_zero:
            for problem in trainer.datamodule.problems:  # type: ignore[attr-defined]
                self._write(json.dumps(vars(problem)))

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self._record(filter(None, "\n".join(batch["bad"]).split("\n")))
        self._look()
        self._last = (list(batch["key"]), AsyncCopy(outputs["finite"]))
        if is_logged(trainer):
            count = self._of_all_ranks(trainer)
            log(trainer, {"data/bad_samples": count})
            self._refuse_too_many(trainer, count)

    def _record(self, lines: Iterable[str]) -> None:
        for line in lines:
            if line not in self._before and line not in self._met:
                self._write(line)

    def _look(self) -> None:
        """Look at the latents and conditions of the step before."""
        if self._last is not None:
            keys, finite = self._last
            self._last = None
            wrong = [key for key, whole in zip(keys, finite.tolist(), strict=True) if not whole]
            self._record(json.dumps(vars(Problem(*_NOT_FINITE, key=key))) for key in wrong)

    def _write(self, line: str) -> None:
        self._met.add(line)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def _of_all_ranks(self, trainer: pl.Trainer) -> int:
        """Return the number over all ranks; a sample that several ranks found counts more than once."""
        met = torch.tensor(float(len(self._met)), device=trainer.strategy.root_device)
        return len(self._before) + int(trainer.strategy.reduce(met, reduce_op="sum"))

    def _refuse_too_many(self, trainer: pl.Trainer, count: int) -> None:
        data = trainer.datamodule  # type: ignore[attr-defined]
        of = data.num_samples or trainer.global_step * data.batch_size
        if count > self.max_share * of:
            raise TooManyBadSamples(
                f"{count} of {of:,} samples are bad, more than callbacks.bad_samples.max_share={self.max_share:g}; "
                f"{self.path} lists them"
            )

    def on_save_checkpoint(self, trainer: pl.Trainer, module: Any, checkpoint: dict[str, Any]) -> None:
        self._look()

    def on_exception(self, trainer: pl.Trainer, module: Any, exception: BaseException) -> None:
        with suppress(RuntimeError, OSError):  # the device or the disk may be what failed
            self._look()

    def on_train_end(self, trainer: pl.Trainer, module: Any) -> None:
        self._look()
        if self._met and trainer.is_global_zero:
            say(f"{len(self._before | self._met)} bad samples were left out or replaced; {self.path} lists them")
