"""What the state in a checkpoint must consist of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffusion_train.training.weights import checkpoint_weights
from diffusion_train.utils import schema
from diffusion_train.utils.schema import (
    COUNT,
    DURATION,
    FLAG,
    NUMBER,
    PLAIN,
    PLAIN_MAPPING,
    SIZE,
    TEXT,
    TEXT_OR_NONE,
    Each,
    Leaf,
    Maybe,
    Schema,
)
from diffusion_train.utils.text import indented


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Tensor) and value.layout == torch.strided and value.device.type == "cpu"


def _is_amount(value: Any) -> bool:
    scalar = value.item() if _is_tensor(value) and value.ndim == 0 else value
    return schema.DURATION.accepts(scalar)


TENSOR = Leaf("a tensor", _is_tensor)
FLOATS = Leaf("a tensor of floating-point numbers", lambda value: _is_tensor(value) and value.is_floating_point())
AMOUNT = Leaf("a finite number of at least 0, or a scalar tensor with one", _is_amount)
NULL = Leaf("null", lambda value: value is None)

_GROUPS = ("diffusion", "network", "conditioner", "autoencoder", "adapter", "optimizer", "lr_schedule", "ema", "data")
_CONFIG: Schema = {"seed": COUNT, **dict.fromkeys((*_GROUPS, "trainer"), PLAIN_MAPPING)}
_ORDER: Schema = {
    "id": TEXT,
    "data": TEXT,
    "arrangement": {"order": Each(COUNT), "mix": PLAIN_MAPPING, "buckets": PLAIN_MAPPING},
    "batch_size": SIZE,
    "remapped": FLAG,
}
_FACTS: Schema = {
    "format": SIZE,
    "version": TEXT,
    "step": COUNT,
    "wandb_id": TEXT_OR_NONE,
    "cursor": COUNT,
    "course": Maybe(_ORDER),
    "identity": Each(PLAIN),
    "config": _CONFIG,
}
_PROGRESS: Schema = {"total": Each(COUNT), "current": Each(COUNT)}
_LOOP: Schema = {
    "epoch_progress": _PROGRESS,
    "epoch_loop.state_dict": {"_batches_that_stepped": COUNT},
    "epoch_loop.batch_progress": {**_PROGRESS, "is_last_batch": FLAG},
    "epoch_loop.scheduler_progress": _PROGRESS,
    "epoch_loop.automatic_optimization.optim_progress": Maybe({"optimizer": Each(_PROGRESS)}),
    "epoch_loop.manual_optimization.optim_step_progress": {"total": {"completed": COUNT}, "current": Each(COUNT)},
    "epoch_loop.val_loop.batch_progress": Maybe({**_PROGRESS, "is_last_batch": FLAG}),
}
_SCHEMA: Schema = {
    "diffusion_train": _FACTS,
    "pytorch-lightning_version": TEXT,
    "epoch": COUNT,
    "global_step": COUNT,
    "loops": {"fit_loop": _LOOP},
    "state_dict": Each(TENSOR),
    "ema": {"names": [TEXT], "averages": [Each(FLOATS)]},
    "optimizer_states": [
        {"state": Each({"step": Maybe(AMOUNT)}, key=int), "param_groups": [{"params": [COUNT], "lr": AMOUNT}]}
    ],
    "optimizer_class": Maybe(TEXT),
    "lr_schedulers": [{"last_epoch": COUNT, "_step_count": COUNT, "base_lrs": [NUMBER], "lr_lambdas": [NULL]}],
    "skipped_in_a_row": AMOUNT,
    "recently_skipped": Maybe([FLAG]),
    "callbacks": {"TimeBudget": Maybe({"seconds": DURATION})},
    "MixedPrecision": Maybe(
        {
            **dict.fromkeys(("scale", "growth_factor", "backoff_factor"), DURATION),
            **dict.fromkeys(("growth_interval", "_growth_tracker"), COUNT),
        }
    ),
}


def problems(checkpoint: Mapping[str, Any]) -> list[str]:
    """Return a line for everything in a checkpoint that is missing or that no run saves."""
    return list(schema.problems(checkpoint, _SCHEMA)) or list(_contradictions(checkpoint))


def listing(path: Path, wrong: list[str]) -> str:
    """Return the message for a checkpoint with `problems`."""
    return (
        f"{path}: its state is not that of a run; use resume=<path of another checkpoint>, or delete this file and "
        f"use resume=auto, which resumes from the one before it:{indented(wrong)}"
    )


def _contradictions(checkpoint: Mapping[str, Any]) -> Iterator[str]:
    """Yield a line for each two parts of a checkpoint that do not belong together."""
    step = checkpoint["global_step"]
    progress = checkpoint["loops"]["fit_loop"]["epoch_loop.manual_optimization.optim_step_progress"]
    for name, other in (
        ("diffusion_train.step", checkpoint["diffusion_train"]["step"]),
        ("loops.fit_loop: the number of completed steps", progress["total"]["completed"]),
    ):
        if other != step:
            yield f"{name}: must be the global_step, {step}, got {other}"
    names, averages = checkpoint["ema"]["names"], checkpoint["ema"]["averages"]
    if not averages or len(names) != len(averages):
        yield f"ema: must have a name for each average and at least one, got {len(names)} and {len(averages)}"
        return
    weights = checkpoint_weights(checkpoint)
    for number, average in enumerate(averages):
        for name in sorted(averages[0].keys() | average.keys()):
            if not (name in average and name in weights and average[name].shape == weights[name].shape):
                yield f"ema.averages[{number}].{name}: must be the average of a weight in state_dict, of its shape"
    for name in ("optimizer_states", "lr_schedulers"):
        if len(checkpoint[name]) != 1:
            yield f"{name}: must have one item, got {len(checkpoint[name])}"
            return
    yield from _wrong_optimizer(checkpoint["optimizer_states"][0], checkpoint["lr_schedulers"][0], len(averages[0]))


def _wrong_optimizer(state: Mapping[str, Any], lr_schedule: Mapping[str, Any], num_averaged: int) -> Iterator[str]:
    numbers = [number for group in state["param_groups"] for number in group["params"]]
    if numbers != list(range(num_averaged)):
        yield f"optimizer_states[0].param_groups: must have the {num_averaged} trained parameters, got {len(numbers)}"
    for number in state["state"].keys() - set(numbers):
        yield f"optimizer_states[0].state.{number}: there is no such parameter"
    num_groups = len(state["param_groups"])
    for name in ("base_lrs", "lr_lambdas"):
        if len(lr_schedule[name]) != num_groups:
            yield f"lr_schedulers[0].{name}: must have {num_groups} items, one for each parameter group"
