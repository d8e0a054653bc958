"""The config that a resumed run began with. Settings that a run chooses by itself are chosen once and kept.

`diffusion_train.config` does not export this module: reading a checkpoint loads torch, and mistakes are reported before
that.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from diffusion_train.config.run import load_run_config
from diffusion_train.training.checkpoint.checkpoint_file import read_facts


def began_with(cfg: DictConfig) -> Mapping[str, Any]:
    """Return the config of the run that `cfg` resumes; empty if no run is resumed."""
    if cfg.resume == "never":
        return {}
    try:
        if cfg.resume == "auto":
            return load_run_config(Path(cfg.run_dir))
        before: Mapping[str, Any] = read_facts(Path(cfg.resume))["config"]
    except (OSError, ValueError):  # nothing to resume; if there should be, the command reports it
        return {}
    return before


def keep_choices(cfg: DictConfig) -> None:
    """Set `trainer.precision` and `compile`, if they are auto, to what a resumed run has chosen."""
    for node, name in ((cfg.trainer, "precision"), (cfg, "compile")):
        if node.get(name) == "auto":
            before = began_with(cfg)
            node[name] = (before.get("trainer") or {} if name == "precision" else before).get(name, "auto")
