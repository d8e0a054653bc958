"""Our side of time_to_quality.py, in the version of the checkout that it runs in.

    python benchmarks/time_to_quality_ours.py <run> <prompts.json> <file> <device>

writes one sample for each prompt, prompt j with seed j, drawn by the run's own sampler and guidance.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from turns import Turns

from diffusion_train import config
from diffusion_train.callbacks import time_budget


class TakeTurns(pl.Callback):
    """Lets a run train in turns. The clock of its time budget stands still while others train."""

    def __init__(self, goals: int, answers: int) -> None:
        self.pipes = goals, answers

    def on_train_start(self, trainer: Any, module: Any) -> None:
        self.turns = Turns(*self.pipes)
        time_budget.monotonic = self.turns.clock  # type: ignore[assignment]
        self.turns.start(parameters=sum(parameter.numel() for parameter in module.network.parameters()))

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.turns.step(len(batch["index"]))

    def on_train_end(self, trainer: Any, module: Any) -> None:
        self.turns.finish()


def main() -> None:
    try:
        from diffusion_train.assembly import load_pipeline
    except ImportError:  # versions before assembly.py
        from diffusion_train.run_folder import load_pipeline
    config.allow(["time_to_quality_ours."])  # the run's config names TakeTurns
    run, prompts, file, device = sys.argv[1:]
    captions = json.loads(Path(prompts).read_text())
    pipeline = load_pipeline(Path(run), device=device)
    torch.save(pipeline.sample(seeds=range(len(captions)), batch={"caption": captions}), file)


if __name__ == "__main__":
    main()
