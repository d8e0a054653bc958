"""Records the optimizer steps that were skipped because their gradient was not finite, and ends a run with too many."""

from __future__ import annotations

import json
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from diffusion_train.callbacks.sampling import gather
from diffusion_train.callbacks.scalars import NumericalError
from diffusion_train.run_folder import RunFolder
from diffusion_train.utils.process.interruption import OnAllRanks
from diffusion_train.utils.ranges import at_least
from diffusion_train.utils.tensor import AsyncCopy

_FEW = 20  # steps, which a scaler of float16 may need to find its scale


class SkippedSteps(pl.Callback):
    """Writes each skipped step with the keys of its samples to skipped_steps.jsonl.

    It looks at each step one step later, so that no step waits for the device. Raises NumericalError on all ranks
    if more than the fraction `max_fraction` of the last `window` steps was skipped, in any pattern. A checkpoint holds
    what became of these steps. A run of fewer steps is judged at its end, if it has at least 20 or its last step was
    skipped as well: otherwise it was recovering. The callback comes before Checkpointing and Scalars.
    """

    def __init__(self, run_dir: str | Path, max_fraction: float = 0.2, window: int = 100) -> None:
        at_least(1, window=window)
        if not 0 <= max_fraction <= 1:
            raise ValueError(f"max_fraction={max_fraction:g}: must be in [0, 1]")
        self.file, self.max_fraction, self.window = RunFolder(Path(run_dir)).skipped_steps, max_fraction, window
        self._recent: deque[bool] = deque(maxlen=window)
        self._last: tuple[int, list[str], AsyncCopy] | None = None

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self._look(trainer)
        self._last = (trainer.global_step, list(batch["key"]), AsyncCopy(module.skipped_in_a_row))
        self._end_above(self.window)

    def on_save_checkpoint(self, trainer: pl.Trainer, module: Any, checkpoint: dict[str, Any]) -> None:
        self._look(trainer)
        checkpoint["recently_skipped"] = list(self._recent)

    def on_load_checkpoint(self, trainer: pl.Trainer, module: Any, checkpoint: dict[str, Any]) -> None:
        self._recent.extend(checkpoint.get("recently_skipped", ()))

    def on_train_end(self, trainer: pl.Trainer, module: Any) -> None:
        self._look(trainer)

    def on_fit_end(self, trainer: pl.Trainer, module: Any) -> None:
        """Judge a run that is complete, also if it was before this start."""
        steps = len(self._recent)
        if trainer.global_step >= trainer.max_steps and steps and (steps >= _FEW or self._recent[-1]):
            self._end_above(steps)

    def on_exception(self, trainer: pl.Trainer, module: Any, exception: BaseException) -> None:
        if trainer.world_size == 1 or isinstance(exception, OnAllRanks):
            with suppress(RuntimeError, OSError):  # the device or the disk may be what failed
                self._look(trainer)

    def _end_above(self, steps: int) -> None:
        """Raises NumericalError if more than `max_fraction` of `steps` were skipped."""
        if (skipped := sum(self._recent)) > self.max_fraction * steps:
            raise NumericalError(
                f"{skipped} of the last {len(self._recent)} steps were skipped because their gradient was not finite; "
                f"{self.file} lists them with their samples. Lower optimizer.lr, or use trainer.precision=32-true"
            )

    def _look(self, trainer: pl.Trainer) -> None:
        """Look at the step before. All ranks see the same, because they exchanged its gradient."""
        if self._last is None:
            return
        step, keys, skipped_in_a_row = self._last
        self._last = None
        self._recent.append(skipped_in_a_row.tolist() > 0)
        if self._recent[-1]:
            everywhere = [key for part in gather(trainer, keys) for key in part]
            if trainer.is_global_zero:
                with self.file.open("a", encoding="utf-8") as file:
                    file.write(json.dumps({"step": step, "keys": everywhere}, ensure_ascii=False) + "\n")
