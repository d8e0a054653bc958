"""The pipelines that a report compares: a run, its base, and the run at other scales and steps."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffusion_train.pipeline import Pipeline
from diffusion_train.run_folder import assemble, build_network, load_pipeline, weights_file
from diffusion_train.training.checkpoint import by_step, damage, load, load_weights
from diffusion_train.training.module import load_exactly, trained


@dataclass(frozen=True)
class Row:
    """One setting of a sweep."""

    axis: str  # "scale" or "step"
    value: float
    pipeline: Callable[[], Pipeline]

    @property
    def name(self) -> str:
        return f"{self.axis} {self.value:,g}"


def base_pipeline(run: Path, cfg: Any, device: str) -> Pipeline | None:
    """What the run started from, sampled with the run's own settings; None for a run that started from nothing.

    An adapter changes nothing before it is trained, so it stays as it is built.
    """
    if not cfg.pretrained:
        return None
    return assemble(cfg, build_network(cfg), load_weights(weights_file(run))[1]["shape"], device)


def scale_rows(run: Path, cfg: Any, scales: Sequence[float], device: str) -> list[Row]:
    """The run at several strengths: by its adapter's own `scale`, or on the straight line from the base's weights to its.

    None for a run without a base, or with an adapter that has no scale.
    """
    if not cfg.pretrained:
        return []
    if "scale" in cfg.adapter:
        return [Row("scale", scale, _at_scale(run, cfg, scale, device)) for scale in scales]
    if list(cfg.adapter) == ["_target_"] and cfg.adapter["_target_"].endswith(".NoAdapter"):
        return [Row("scale", scale, _between(run, cfg, scale, device)) for scale in scales]
    return []


def step_rows(run: Path, cfg: Any, device: str) -> Iterator[Row]:
    """The whole checkpoints of a run folder, oldest first, each with its first average as weights."""
    for file in reversed(by_step(run / "checkpoints") if run.is_dir() else []):
        if damage(file) is None:
            yield Row("step", int(file.stem.rpartition("_")[2]), _at_step(run, cfg, file, device))


def _at_scale(run: Path, cfg: Any, scale: float, device: str) -> Callable[[], Pipeline]:
    def make() -> Pipeline:
        other = copy.deepcopy(cfg)
        other.adapter.scale = float(scale)
        return load_pipeline(run, other, device)

    return make


def _between(run: Path, cfg: Any, scale: float, device: str) -> Callable[[], Pipeline]:
    def make() -> Pipeline:
        weights, description = load_weights(weights_file(run))
        base = build_network(cfg).state_dict()
        mixed = {name: _mix(base[name], value, scale) for name, value in weights.items()}
        return _with(cfg, mixed, description["shape"], device)

    return make


def _mix(base: Tensor, value: Tensor, scale: float) -> Tensor:
    return torch.lerp(base.to(value), value, scale) if value.is_floating_point() else value


def _at_step(run: Path, cfg: Any, file: Path, device: str) -> Callable[[], Pipeline]:
    def make() -> Pipeline:
        checkpoint = load(file)
        weights = {name.removeprefix("network."): value for name, value in checkpoint["state_dict"].items()}
        weights |= checkpoint["ema"]["averages"][0]
        return _with(cfg, weights, load_weights(weights_file(run))[1]["shape"], device)

    return make


def _with(cfg: Any, weights: dict[str, Tensor], shape: Sequence[int], device: str) -> Pipeline:
    network = build_network(cfg, weights)
    load_exactly(network, weights, trained(network))
    return assemble(cfg, network, shape, device)
