"""What the sides of time_to_quality.py are asked for, and how good their samples are, by the measures of quality.py."""

from __future__ import annotations

import sys
from typing import Any

from quality import distance, recognised, training_samples
from torch import Tensor

from diffusion_train import config
from diffusion_train.assembly import build_conditioner, grid_prompts
from diffusion_train.metric.extractor import EfficientNetLite0
from diffusion_train.picture import grid
from diffusion_train.utils.tensor import best_device


class Judge:
    """The prompts that every side draws for, and the measures of its samples."""

    def __init__(self, cfg: Any, num_samples: int, num_real: int = 1024) -> None:
        self.captions, self.images = training_samples(cfg, sys.maxsize)
        held_out = config.build(cfg.data).datamodule().held_out(min(num_samples, 200))
        self.grid_prompts = grid_prompts(cfg)
        self.num_samples = num_samples
        self.prompts = [*self.captions[:num_samples], *held_out["caption"], *self.grid_prompts]
        self.conditioner = build_conditioner(cfg)
        self.extractor = EfficientNetLite0().to(best_device())
        real = self.extractor(self.images[: num_samples + num_real]).cpu()
        self.own, self.reference = real[:num_samples], real[-num_real:]
        self.held_own = self.extractor(held_out["x"]).cpu()
        self.kid_of_real = distance(self.own, real[num_samples:])

    def material(self) -> dict[str, Any]:
        """What a peer trains on and is asked for."""
        return {
            "images": self.images,
            "cond": self._cond(self.captions),
            "null": self._cond([""]),
            "asked_for": self._cond(self.prompts),
            "num_unconditional": self.num_samples,
        }

    def _cond(self, captions: list[str]) -> dict[str, Tensor]:
        cond = self.conditioner({"caption": captions})
        return {name: cond[name] for name in ("text", "text_mask")}

    def measures(self, samples: Tensor) -> dict[str, float]:
        """Samples for all prompts, or those of an unconditional side."""
        features = self.extractor(samples[: len(self.own) + len(self.held_own)]).cpu()
        drawn, held = features[: len(self.own)], features[len(self.own) :]
        measures = {"kid": distance(drawn, self.reference)}
        if len(held):
            measures["retrieval"] = recognised(drawn, self.own)
            measures["held_kid"] = distance(held, self.reference)
            measures["held_retrieval"] = recognised(held, self.held_own)
        return measures

    def grid(self, samples: Tensor) -> Any:
        """The samples of the grid's prompts; the first ones of an unconditional side."""
        prompts = self.grid_prompts
        if len(samples) == len(self.prompts):
            return grid(samples[-len(prompts) :], prompts, len(prompts))
        return grid(samples[: len(prompts)], [""] * len(prompts), len(prompts))
