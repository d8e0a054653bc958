"""What a run says of itself when it starts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from diffusion_train import config
from diffusion_train.callbacks.progress import say


class Announcement(pl.Callback):
    """Writes config.yaml and data.json, tells every logger the config, and says what is about to be trained.

    Not before the first step is next: a start that is refused, as where its checkpoint is of another run, changes nothing.
    """

    def __init__(self, cfg: Any, checkpoint: Path | None) -> None:
        self.cfg, self.checkpoint = cfg, checkpoint

    def on_train_start(self, trainer: pl.Trainer, module: Any) -> None:
        if not trainer.is_global_zero:
            return
        cfg, run_dir, data = self.cfg, Path(self.cfg.run_dir), trainer.datamodule  # type: ignore[attr-defined]
        config.save_config(cfg, run_dir / "config.yaml")
        facts = json.dumps(data.facts, indent=1, ensure_ascii=False)
        (run_dir / "data.json").write_text(config.redact_text(facts), "utf-8")
        for logger in trainer.loggers:
            logger.log_hyperparams(config.redact(cfg))
        trained = sum(p.numel() for p in module.learned.parameters() if p.requires_grad)
        say(f"{cfg.name}: {data.description}, {trained:,} trained parameters, {trainer.precision}")
        say(f"run folder {run_dir}" + (f", going on from {self.checkpoint.name}" if self.checkpoint else ""))
        if cfg.compile:
            say("compile=true: the first step takes a minute or more")
