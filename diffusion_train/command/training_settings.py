"""What commands that build a run read of its config: keys, arguments that they give to parts, and captions."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from diffusion_train.command.messages import prompts
from diffusion_train.data.base import TrainingData

# Keys that the commands read themselves; every other key must belong to a part or be referred to by one.
READ = (
    "name",
    "seed",
    "run_dir",
    "resume",
    "pretrained",
    "base",
    "condition",  # for networks that take conditions
    "condition_dropout",
    "data.encoded",
    "clip_norm",
    "channels_last",
    "compile",
    "report",
)
# Arguments that the commands give to a part.
GIVEN = {
    "callbacks.checkpointing": ("description", "after_saving"),
    "data.module.arrangement.order": ("fingerprint", "num_samples"),
}


class RunCaptions:
    """Those of the sample grids and of the data, which are read when they are asked for, and each time."""

    def __init__(self, cfg: Any, data: TrainingData) -> None:
        self.cfg, self.data = cfg, data

    def __iter__(self) -> Iterator[str]:
        samples = self.cfg.callbacks.get("samples", {})
        negative = [samples["negative_prompt"]] if samples.get("negative_prompt") else []
        return itertools.chain(prompts(self.cfg), negative, self.data.captions())
