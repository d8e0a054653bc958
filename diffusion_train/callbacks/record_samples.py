"""Records which samples each optimizer step used, to audit a run or compare two."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from diffusion_train.callbacks.sampling import gather


class RecordSamples(pl.Callback):
    """Writes a line per step to `samples_seen.jsonl`: number, keys of the global batch in order, and their losses."""

    def __init__(self, run_dir: str | Path) -> None:
        self.path = Path(run_dir) / "samples_seen.jsonl"

    def on_train_start(self, trainer: pl.Trainer, module: Any) -> None:
        """Remove the steps after the checkpoint that the run resumes from."""
        if trainer.is_global_zero:
            lines = self.path.read_text("utf-8").splitlines(keepends=True) if self.path.exists() else []
            kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= trainer.global_step]
            self.path.write_text("".join(kept), "utf-8")

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        parts = gather(trainer, (batch["key"], outputs["loss"].tolist()))
        if trainer.is_global_zero:
            keys = [key for part, _ in parts for key in part]
            losses = [loss for _, part in parts for loss in part]
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": trainer.global_step, "keys": keys, "losses": losses}) + "\n")
