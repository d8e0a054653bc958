"""Whether the state in a checkpoint fits the module that resumes from it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from diffusion_train.training.module import DiffusionModule
from diffusion_train.training.weights import check_names_and_shapes, checkpoint_weights, misfits, trainable_state
from diffusion_train.utils.text import indented

# What a precision converts trained parameters and buffers to: see `training.precision`.
_PARAMETERS_IN = {"bf16-true": torch.float32, "64-true": torch.float64}
_BUFFERS_IN = {"bf16-true": torch.bfloat16, "64-true": torch.float64}
_LIKE_PARAMETER = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer")  # state of a parameter's shape


def check_state(checkpoint: Mapping[str, Any], module: DiffusionModule, precision: str) -> None:
    """Raise ValueError with everything in a checkpoint, which `peek` has read, that does not fit `module`.

    The types of weights may only differ if the checkpoint was saved with another precision.
    """
    weights, own = checkpoint_weights(checkpoint), trainable_state(module.trainable_modules)
    check_names_and_shapes(weights, own)
    trained = {name: p for name, p in module.trainable_modules.named_parameters() if p.requires_grad}
    converts = checkpoint["diffusion_train"]["identity"].get("trainer.precision") != precision
    wrong = [] if converts else list(_wrong_types(weights, own, trained.keys(), precision))
    for name, average in zip(checkpoint["ema"]["names"], checkpoint["ema"]["averages"], strict=True):
        wrong += [f"ema {name}: {misfit}" for misfit in misfits(average, trained)]
    [optimizer], _ = module.configure_optimizers()
    if checkpoint.get("optimizer_class") in (None, type(optimizer).__qualname__):
        wrong += _wrong_optimizer(checkpoint["optimizer_states"][0], optimizer)
    if wrong:
        raise ValueError(
            "the state in the checkpoint is not that of this run; resume from another checkpoint, or start again in "
            f"another run_dir:{indented(wrong)}"
        )


def _wrong_types(
    weights: Mapping[str, Tensor], own: Mapping[str, Tensor], parameters: Collection[str], precision: str
) -> Iterator[str]:
    for name, value in own.items():
        converted = _PARAMETERS_IN if name in parameters else _BUFFERS_IN
        expected = converted.get(precision, value.dtype) if value.is_floating_point() else value.dtype
        if weights[name].dtype != expected:
            yield f"type of {name}: must be {expected}, got {weights[name].dtype}"


def _wrong_optimizer(saved: Mapping[str, Any], optimizer: Optimizer) -> Iterator[str]:
    numbers = [group["params"] for group in saved["param_groups"]]
    parameters = [group["params"] for group in optimizer.param_groups]
    if [len(group) for group in numbers] != [len(group) for group in parameters]:
        yield "optimizer: the parameter groups must have " + " and ".join(
            f"{[len(group) for group in groups]} parameters{where}"
            for groups, where in ((parameters, ""), (numbers, " in the checkpoint"))
        )
        return
    required = ("step", "exp_avg", "exp_avg_sq") if isinstance(optimizer, torch.optim.Adam) else ()
    for number, parameter in zip(chain(*numbers), chain(*parameters), strict=True):
        state = saved["state"].get(number)  # a parameter that never had a gradient has none
        for name in required if state is not None else ():
            if name not in state:
                yield f"optimizer: missing: {name} of parameter {number}"
        for name in _LIKE_PARAMETER if state is not None else ():
            value = state.get(name, parameter)
            if not isinstance(value, Tensor) or not value.is_floating_point() or value.shape != parameter.shape:
                yield f"optimizer: {name} of parameter {number}: must be of shape {tuple(parameter.shape)}"
