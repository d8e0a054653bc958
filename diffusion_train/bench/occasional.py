"""Callbacks that act at few steps, such as sample grids and checkpoints: what they take, spread over all steps."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytorch_lightning as pl
from omegaconf import DictConfig

from diffusion_train.bench.clock import Timer
from diffusion_train.callbacks.checkpointing import Checkpointing
from diffusion_train.callbacks.scheduled import Scheduled
from diffusion_train.config.targets import locate

_NEVER = 10**9  # steps


def occasional(cfg: DictConfig) -> dict[str, int]:
    """Return the keys of the callbacks that act at few steps, with the number of steps after which they act again.

    0 is only at the start or the end of the run.
    """
    return {
        name: int(node.every_n_steps if kind is Checkpointing else node.every.num_steps)
        for name, node, kind in _nodes(cfg)
    }


def silence(cfg: DictConfig) -> None:
    """Let these callbacks act at no step."""
    for _, node, kind in _nodes(cfg):
        if kind is Checkpointing:
            node.every_n_steps = _NEVER
        else:
            node.every.update(num_steps=0, first=0, at_end=False)


def leave_out(cfg: DictConfig) -> None:
    """Remove these callbacks."""
    for name, _, _ in _nodes(cfg):
        cfg.callbacks.pop(name)


def act(trainer: pl.Trainer, module: Any, timer: Timer) -> dict[str, float]:
    """Let each of these callbacks act once, and remove it from the run; return the seconds by its class."""
    seconds = {}
    for callback in list(trainer.callbacks):  # type: ignore[attr-defined]
        if not isinstance(callback, (Checkpointing, Scheduled)):
            continue
        start = timer.mark()
        if isinstance(callback, Checkpointing):
            callback.save(trainer, module)
        else:
            callback.act(trainer, module)
        seconds[_name(type(callback))] = timer.seconds(start, timer.mark())
    trainer.callbacks = [  # type: ignore[attr-defined]
        callback
        for callback in trainer.callbacks  # type: ignore[attr-defined]
        if not isinstance(callback, (Checkpointing, Scheduled))
    ]
    return seconds


def by_step(cfg: DictConfig, seconds: dict[str, float]) -> list[tuple[str, float, int]]:
    """Return (key, seconds, steps between) of each callback of a config that acts repeatedly, from what `act` took."""
    names = {name: _name(locate(cfg.callbacks[name]["_target_"])) for name in occasional(cfg)}
    return [(name, seconds[names[name]], steps) for name, steps in occasional(cfg).items() if steps]


def _nodes(cfg: DictConfig) -> Iterator[tuple[str, Any, type]]:
    """Yield key, node and kind of these callbacks in a config."""
    for name, node in list(cfg.callbacks.items()):
        part = locate(node["_target_"])
        for kind in (Checkpointing, Scheduled):
            if isinstance(part, type) and issubclass(part, kind):
                yield str(name), node, kind


def _name(part: Any) -> str:
    return f"{part.__module__}.{part.__qualname__}"
