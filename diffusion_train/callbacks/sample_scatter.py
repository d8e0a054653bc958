"""Scatter plots of two-dimensional samples over their data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from diffusion_train import picture
from diffusion_train.callbacks.sampling import averaged_pipeline, sample_shared, show_samples
from diffusion_train.callbacks.scheduled import Every, Scheduled
from diffusion_train.callbacks.stop import stoppable
from diffusion_train.guidance.base import Guidance
from diffusion_train.run_folder import RunFolder
from diffusion_train.sampler.base import Sampler
from diffusion_train.utils.ranges import at_least


class SampleScatter(Scheduled):
    """Draws `samples/step_00001000.png`: `num_samples` samples over as many data points."""

    title = "samples"

    def __init__(
        self, run_dir: str | Path, sampler: Sampler, guidance: Guidance, every: Every, num_samples: int = 2000
    ) -> None:
        super().__init__(every)
        at_least(1, num_samples=num_samples)
        self.folder, self.sampler, self.guidance = RunFolder(Path(run_dir)).samples, sampler, guidance
        self.num_samples = num_samples

    def act(self, trainer: pl.Trainer, module: Any) -> None:
        data = stoppable(trainer, lambda: trainer.datamodule.examples(self.num_samples))  # type: ignore[attr-defined]
        with averaged_pipeline(trainer, module, self.sampler, self.guidance) as pipeline:
            samples = sample_shared(trainer, pipeline, data, range(len(data["index"])), batch_size=self.num_samples)
        if trainer.is_global_zero:
            drawn = picture.scatter(samples, data["x"], f"step {trainer.global_step}")
            show_samples(trainer, self.folder, drawn, "samples over data")
