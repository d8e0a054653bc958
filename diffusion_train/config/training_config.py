"""The top level of a training config: every key of conf/config.yaml, and the parts that are built to find mistakes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_type_hints

# Two kinds of Hydra groups. Parts of the first need neither weights nor a device, so they are built to find mistakes.
_Tried = Annotated[dict[str, Any], "built once to find mistakes"]
_Untried = Annotated[dict[str, Any], "not built to find mistakes"]


@dataclass
class TrainingConfig:
    """The keys of a training config: settings, which the command reads, and groups, from which parts are built."""

    name: str
    seed: int
    run_dir: str
    resume: str
    allow_mismatch: list[str]
    pretrained: str | None
    base: dict[str, Any]
    condition: dict[str, int | None]  # read by networks that take conditions
    condition_dropout: float
    clip_norm: float | None
    channels_last: bool
    compile: bool | Literal["auto"]
    report: bool
    brand: str | None
    owner: str | None

    data: _Untried  # built separately, and has its own check
    diffusion: _Tried
    network: _Untried
    conditioner: _Untried
    autoencoder: _Untried
    adapter: _Tried
    optimizer: _Tried
    lr_schedule: _Tried
    ema: _Tried
    sampler: _Tried
    guidance: _Tried
    callbacks: _Tried
    logger: _Untried
    trainer: _Untried


_HINTS = get_type_hints(TrainingConfig, include_extras=True)
# Keys that the code reads itself; every other key must belong to a part or be referred to by one.
SETTINGS = (*(name for name, hint in _HINTS.items() if hint not in (_Tried, _Untried)), "base_record")
# Groups whose parts are built once to find their mistakes.
DRY_BUILT = tuple(name for name, hint in _HINTS.items() if hint == _Tried)
# What a setting may be, if its value in config.yaml is an example.
TYPES = {name: hint for name, hint in _HINTS.items() if hint not in (_Tried, _Untried)}
