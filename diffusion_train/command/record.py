"""What a run writes down and says of itself when it starts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from diffusion_train import config
from diffusion_train.callbacks.progress import say
from diffusion_train.utils.files import atomic_file
from diffusion_train.utils.redact import redact_text


class RunRecord(pl.Callback):
    """config.yaml, data.json, the loggers' config and a few words.

    Not before the first step is next: a start that is refused, as where its checkpoint is of another run, changes nothing.
    Where there are weights already, data.json waits for those that other data have gone into.
    """

    def __init__(self, cfg: Any, checkpoint: Path | None) -> None:
        self.cfg, self.run_dir, self.checkpoint = cfg, Path(cfg.run_dir), checkpoint
        self._data = b""  # what data.json is still to hold

    def on_train_start(self, trainer: pl.Trainer, module: Any) -> None:
        if not trainer.is_global_zero:
            return
        config.save_config(self.cfg, self.run_dir / "config.yaml")
        facts = json.dumps(trainer.datamodule.facts, indent=1, ensure_ascii=False)  # type: ignore[attr-defined]
        self._data = redact_text(facts).encode()
        if not (self.run_dir / "weights.safetensors").is_file():
            self.write_data()
        for logger in trainer.loggers:
            logger.log_hyperparams(config.redact(self.cfg))
        data, trained = trainer.datamodule, (p.numel() for p in module.learned.parameters() if p.requires_grad)  # type: ignore[attr-defined]
        say(f"{self.cfg.name}: {data.description}, {sum(trained):,} trained parameters, {trainer.precision}")
        say(f"run folder {self.run_dir}" + (f", going on from {self.checkpoint.name}" if self.checkpoint else ""))
        if self.cfg.compile:
            say("compile=true: the first step takes a minute or more")

    def write_data(self) -> None:
        """data.json, if it is not written yet."""
        if self._data:
            with atomic_file(self.run_dir / "data.json") as file:
                file.write(self._data)
            self._data = b""
