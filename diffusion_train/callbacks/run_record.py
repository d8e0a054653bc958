"""What a run records and prints about itself when it starts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import yaml

from diffusion_train.callbacks.progress import say
from diffusion_train.run_folder import RunFolder
from diffusion_train.utils.files import atomic_file
from diffusion_train.utils.redact import redact_text


class RunRecord(pl.Callback):
    """Writes config.yaml and data.json, passes the config to the loggers, and prints a summary.

    `config` must be plain data without secrets. Files are written just before the first step, so that a start that
    fails, for instance because its checkpoint is of another run, changes nothing. If weights.safetensors exists
    already, data.json is written with the first new weights, because the old weights come from the old data.
    `changed` are the settings that differ from the checkpoint's, with both values: they hold from the next step on, and
    changes.jsonl keeps a line for each resume that changed any.
    """

    def __init__(
        self,
        run_dir: Path,
        config: Mapping[str, Any],
        checkpoint: Path | None,
        changed: Mapping[str, tuple[Any, Any]] | None = None,
    ) -> None:
        self.folder, self.config, self.checkpoint = RunFolder(run_dir), config, checkpoint
        self.changed = dict(changed or {})
        self._data = b""  # the content of data.json, until it is written

    def on_train_start(self, trainer: pl.Trainer, module: Any) -> None:
        """Write and print the record, on the first rank."""
        if not trainer.is_global_zero:
            return
        data = trainer.datamodule  # type: ignore[attr-defined]
        with atomic_file(self.folder.config) as file:
            file.write(yaml.safe_dump(dict(self.config), sort_keys=False, allow_unicode=True).encode())
        self._data = redact_text(json.dumps(data.facts, indent=1, ensure_ascii=False)).encode()
        if not self.folder.weights.is_file():
            self.write_data()
        for logger in trainer.loggers:
            logger.log_hyperparams(dict(self.config))
        num_trained = sum(p.numel() for p in module.trainable_modules.parameters() if p.requires_grad)
        say(f"{self.config['name']}: {data.description}, {num_trained:,} trained parameters, {trainer.precision}")
        say(f"run folder {self.folder.path}" + (f", resuming from {self.checkpoint.name}" if self.checkpoint else ""))
        if self.changed:
            self._record_changes(trainer.global_step)
        for note in module.diffusion.notes():
            say(f"note: {note}")
        if self.config["compile"]:
            say("compile=true: the first step of each shape may take a minute or more")

    def _record_changes(self, step: int) -> None:
        say(f"settings that differ from the checkpoint's, from step {step + 1} on:")
        for key, (before, now) in self.changed.items():
            say(f"  {key}: {before} -> {now}")
        line = json.dumps({"after_step": step, "changed": self.changed}, ensure_ascii=False)
        with self.folder.changes.open("a", encoding="utf-8") as file:
            file.write(f"{line}\n")

    def write_data(self) -> None:
        """Write data.json, unless it is written already."""
        if self._data:
            with atomic_file(self.folder.data) as file:
                file.write(self._data)
            self._data = b""
