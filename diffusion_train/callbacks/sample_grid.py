"""Grids of samples for fixed prompts and seeds, which can be compared between steps and runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from diffusion_train import picture
from diffusion_train.callbacks.sampling import averaged_pipeline, sample_shared, show_samples
from diffusion_train.callbacks.scheduled import Every, Scheduled
from diffusion_train.callbacks.stop import stoppable
from diffusion_train.guidance.base import Guidance
from diffusion_train.pipeline import select_rows
from diffusion_train.run_folder import RunFolder
from diffusion_train.sampler.base import Sampler
from diffusion_train.utils.ranges import at_least


class SampleGrid(Scheduled):
    """Draws `samples/step_00001000.png` with `num_samples` samples per prompt; sample j of each has seed `seed + j`.

    Without prompts, the conditions of the first held-out samples are used, or of training samples if none are held out.
    """

    title = "samples"

    def __init__(
        self,
        run_dir: str | Path,
        sampler: Sampler,
        guidance: Guidance,
        every: Every,
        prompts: Sequence[str] = (),
        num_samples: int = 4,
        seed: int = 0,
        negative_prompt: str | None = None,
    ) -> None:
        super().__init__(every)
        at_least(1, num_samples=num_samples)
        self.folder, self.sampler, self.guidance = RunFolder(Path(run_dir)).samples, sampler, guidance
        self.prompts, self.num_samples, self.seed = list(prompts), num_samples, seed
        self.negative_prompt = negative_prompt

    def act(self, trainer: pl.Trainer, module: Any) -> None:
        """Sample on all ranks with the first average of the weights, and draw the grid on the first."""
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        conditions: dict[str, Any] = {"caption": self.prompts}
        if not self.prompts:
            conditions = stoppable(trainer, lambda: data.examples(8))
        rows = [row for row in range(len(conditions["caption"])) for _ in range(self.num_samples)]
        seeds = [self.seed + row % self.num_samples for row in range(len(rows))]
        with averaged_pipeline(trainer, module, self.sampler, self.guidance) as pipeline:
            samples = sample_shared(
                trainer, pipeline, select_rows(conditions, rows), seeds, negative_prompt=self.negative_prompt
            )
        if trainer.is_global_zero:
            captions = [conditions["caption"][row] for row in rows]
            num_columns = min(2 * self.num_samples, len(rows))
            drawn = picture.grid(samples, captions, num_columns=num_columns)
            show_samples(trainer, self.folder, drawn, "; ".join(conditions["caption"]))
