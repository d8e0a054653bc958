"""Which settings of Lightning's Trainer a run uses, and what to use in place of the others."""

from __future__ import annotations

import re
from typing import Any

from omegaconf import DictConfig, OmegaConf

from diffusion_train.config.mistakes import Mistake

USED = (
    *("accelerator", "strategy", "devices", "num_nodes", "precision", "sync_batchnorm"),
    *("max_steps", "max_time", "log_every_n_steps"),
    *("deterministic", "benchmark", "detect_anomaly", "profiler"),
)
_VALIDATION = "use callbacks.validation.every.num_steps"
# Lightning's settings that a run has under another key.
_INSTEAD = {
    "accumulate_grad_batches": "use data.micro_batch_size, which changes no step",
    "barebones": "leave callbacks out instead: callbacks=training",
    "callbacks": "use +callbacks.<name>._target_=<class>",
    "check_val_every_n_epoch": _VALIDATION,
    "default_root_dir": "use run_dir",
    "enable_checkpointing": "use callbacks.checkpointing.every_n_steps",
    "fast_dev_run": "use debug=one_batch",
    "gradient_clip_algorithm": "use clip_norm, which clips by the norm",
    "gradient_clip_val": "use clip_norm",
    "limit_train_batches": "use trainer.max_steps to run shorter",
    "limit_val_batches": "use callbacks.validation.num_samples",
    "logger": "use logger=none or logger=wandb",
    "max_epochs": "use trainer.max_steps",
    "min_epochs": "use trainer.max_steps",
    "min_steps": "use trainer.max_steps",
    "num_sanity_val_steps": _VALIDATION,
    "overfit_batches": "use debug=overfit",
    "val_check_interval": _VALIDATION,
}
# Strategies that keep all weights on each rank, which clipping, skipped steps, averages and checkpoints need.
_STRATEGIES = ("auto", "ddp", "ddp_find_unused_parameters_false", "ddp_find_unused_parameters_true", "single_device")
_COPIES = re.compile("spawn|fork|notebook")  # in the names of Lightning's strategies
_SHARDS = re.compile("fsdp|deepspeed|parallel", re.IGNORECASE)  # in the names of those that split the weights


def trainer_mistakes(cfg: DictConfig) -> list[Mistake]:
    """Return a mistake for each setting of `trainer` that would cut or repeat an epoch, do nothing, or not work."""
    settings = cfg.get("trainer") or {}
    if settings.get("_target_") != "pytorch_lightning.Trainer":
        return []
    return _strategy_mistakes(settings.get("strategy")) + [
        Mistake(f"trainer.{key}", "is not a setting of a run", _INSTEAD.get(str(key), "leave it out"))
        for key in settings
        if key not in ("_target_", *USED)
    ]


def _strategy_mistakes(strategy: Any) -> list[Mistake]:
    """Return a mistake if the strategy, a name or a node with a `_target_`, does not keep all weights on each rank."""
    name = str(strategy.get("_target_") if OmegaConf.is_dict(strategy) else strategy)
    if name in (*_STRATEGIES, "None") or (OmegaConf.is_dict(strategy) and not _SHARDS.search(name)):
        return []
    problem = f"must be one of {', '.join(_STRATEGIES)}"
    if _COPIES.search(name):
        problem = "copies this process to start the others, but each must be started as a separate command"
    elif _SHARDS.search(name):
        problem = "splits the weights over the ranks, but each rank must have all of them"
    return [Mistake(f"trainer.strategy={name}", problem, "give auto, or ddp")]
