"""Chooses the settings that are `auto`, by measuring the run's own network. A run chooses once and keeps the result."""

from __future__ import annotations

import sys
from functools import partial

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig
from pytorch_lightning.callbacks import Timer

from diffusion_train.callbacks.time_budget import TimeBudget
from diffusion_train.data.base import TrainingData
from diffusion_train.data.image.collate import to_levels
from diffusion_train.data.storage.base import StorageError
from diffusion_train.pipeline import select_rows
from diffusion_train.training.compilation import is_worth_trying, repays
from diffusion_train.training.module import DiffusionModule
from diffusion_train.training.passes import Passes, faster
from diffusion_train.training.precision import AUTO
from diffusion_train.utils.process.launcher import first_process

BUDGET = 2.0  # seconds to choose a precision in, unless a pass of a single row takes longer
_NUM_PASSES = 10  # that fit into them


def choose(cfg: DictConfig, module: DiffusionModule, data: TrainingData, trainer: pl.Trainer) -> None:
    """Replace `auto` in `trainer.precision` and `compile`. Only the device of `trainer` and its time limit are used.

    Processes might choose differently, so runs of several take float32 and no compilation. Raises ValueError if the
    samples to measure with cannot be read.
    """
    alone = trainer.num_devices * trainer.num_nodes == 1
    passes = _passes(module, data, trainer.strategy.root_device) if alone else None
    if cfg.trainer.precision == AUTO:
        cfg.trainer.precision = _faster_precision(passes) if passes else "32-true"
        _say("trainer.precision", cfg.trainer.precision, "measured" if passes else "there are several processes")
    if cfg.compile == AUTO:
        cfg.compile, reason = _compiled(cfg, passes, trainer) if passes else (False, "there are several processes")
        _say("compile", str(cfg.compile).lower(), reason)


def _passes(module: DiffusionModule, data: TrainingData, device: torch.device) -> Passes:
    num_rows = data.micro_batch_size or data.batch_size
    try:
        examples = data.examples(num_rows)
    except StorageError as error:
        raise ValueError(f"the samples of data.shards cannot be read: {error}") from error
    count = len(examples["index"])
    batch = to_levels(select_rows(examples, [row % count for row in range(num_rows)]))
    module.to(device)
    x0, cond = module.prepare({k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in batch.items()})
    return Passes(module, x0, cond)


def _faster_precision(passes: Passes) -> str:
    """Return the faster precision for as many rows as fit into the budget; float32 if they differ by less than 5 %."""
    one = passes.first(1)
    seconds = one.seconds("32-true")
    if seconds < BUDGET / _NUM_PASSES:
        seconds = one.seconds("32-true")  # the first pass also allocates
    num_rows = max(1, int(BUDGET / _NUM_PASSES / seconds))
    return faster(passes.first(1 << (num_rows.bit_length() - 1)).seconds, "32-true", "bf16-mixed", BUDGET)


def _compiled(cfg: DictConfig, passes: Passes, trainer: pl.Trainer) -> tuple[bool, str]:
    """Return whether to compile, in which case the network is compiled, and why."""
    if cfg.trainer.precision in ("bf16-true", "64-true"):
        return False, f"it cannot be measured before the weights are in {cfg.trainer.precision}; give compile=true"
    network = passes.module.network
    seconds = partial(passes.seconds, cfg.trainer.precision)
    step = min(seconds() for _ in range(3)) * cfg.data.batch_size / len(passes.x0)
    left = seconds_left(cfg, step, trainer)
    if not is_worth_trying(passes.num_operations(), passes.x0.device.type, left):
        return False, f"a run of about {left / 60:.0f} minutes is too short to repay compilation ten times"
    try:
        repaid = repays(network, seconds, left)
    except Exception as error:  # noqa: BLE001 (compilers fail in many ways)
        return False, f"compilation failed: {str(error).strip().partition(chr(10))[0]}"
    return repaid, f"measured, for a run of about {left / 60:.0f} minutes"


def seconds_left(cfg: DictConfig, step: float, trainer: pl.Trainer) -> float:
    """Return the length of a run whose steps take `step` seconds: the smallest of its limits."""
    limits = [timer.time_remaining() for timer in trainer.callbacks if isinstance(timer, Timer)]  # type: ignore[attr-defined]
    target = f"{TimeBudget.__module__}.{TimeBudget.__qualname__}"
    limits += [60 * node.minutes for node in cfg.callbacks.values() if node.get("_target_") == target]
    limits += [cfg.trainer.max_steps * step] if cfg.trainer.max_steps else []
    return float(min((limit for limit in limits if limit is not None), default=0.0))


def _say(key: str, value: str, reason: str) -> None:
    if first_process():
        print(f"{key}=auto: chose {value} ({reason})", file=sys.stderr)
