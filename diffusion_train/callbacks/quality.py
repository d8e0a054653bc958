"""Quality of samples: distance to the data and agreement with the caption."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
from torch import Tensor

from diffusion_train.callbacks.progress import say
from diffusion_train.callbacks.sampling import averaged_pipeline, sample_shared
from diffusion_train.callbacks.scalars import log
from diffusion_train.callbacks.scheduled import Every, Scheduled
from diffusion_train.callbacks.stop import stoppable
from diffusion_train.guidance.base import Guidance
from diffusion_train.metric.extractor import Extractor
from diffusion_train.metric.kid import KID
from diffusion_train.metric.retrieval import Retrieval
from diffusion_train.pipeline import select_rows
from diffusion_train.sampler.base import Sampler
from diffusion_train.utils.ranges import at_least


class Quality(Scheduled):
    """Logs `quality/KID-<extractor>` and `quality/retrieval` of samples for training captions.

    One sample is drawn for each of `num_samples` captions. KID compares them with `num_real` training images. Retrieval
    is the fraction of samples whose nearest image, among those of the `num_samples` captions, is that of their caption.
    """

    title = "quality"

    def __init__(
        self,
        extractor: Extractor,
        sampler: Sampler,
        guidance: Guidance,
        every: Every,
        num_samples: int = 256,
        num_real: int = 1024,
    ) -> None:
        super().__init__(every)
        at_least(1, num_samples=num_samples, num_real=num_real)
        self.extractor, self.sampler, self.guidance = extractor, sampler, guidance
        self.num_samples, self.num_real = num_samples, num_real

    def act(self, trainer: pl.Trainer, module: Any) -> None:
        """Sample on all ranks, then compute the metrics on rank 0 from all samples."""
        data = trainer.datamodule  # type: ignore[attr-defined]
        real = stoppable(trainer, lambda: data.examples(self.num_real))
        count = min(self.num_samples, len(real["index"]))
        rows = [number * len(real["index"]) // count for number in range(count)]  # spread over the data
        with averaged_pipeline(trainer, module, self.sampler, self.guidance) as pipeline:
            samples = sample_shared(trainer, pipeline, select_rows(real, rows), rows)
        is_first = trainer.is_global_zero
        scalars = stoppable(trainer, lambda: self._figures(samples, real["x"], rows) if is_first else {})
        if is_first:
            log(trainer, scalars)
            say("  ".join(f"{name} {value:.3f}" for name, value in scalars.items()))

    def _figures(self, samples: Tensor, real: Tensor, rows: list[int]) -> dict[str, float]:
        """Return the metrics of samples (N, ...) for the captions of `rows` of the real images (M, ...)."""
        fake_features, real_features = self.extractor(samples), self.extractor(real)
        kid, retrieval = KID(sync_on_compute=False), Retrieval(sync_on_compute=False)  # this rank has everything
        kid.update(fake_features, real=False)
        kid.update(real_features, real=True)
        retrieval.update(fake_features, real_features[rows])
        return {
            f"quality/KID-{self.extractor.name}": float(kid.compute()),
            "quality/retrieval": float(retrieval.compute()),
        }
