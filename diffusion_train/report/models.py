"""Pipelines that a report compares: a run, its base, and the run at other scales and steps."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffusion_train import config
from diffusion_train.assembly import assemble, build_network, is_adapted, restore
from diffusion_train.pipeline import Pipeline
from diffusion_train.run_folder import RunFolder, by_step, weights_file
from diffusion_train.training.checkpoint.checkpoint_file import damage, load
from diffusion_train.training.weights import checkpoint_weights, load_weights
from diffusion_train.utils.files import unchanged


@dataclass(frozen=True)
class Row:
    """One setting of a sweep. `drawn` names the samples that exist already, "base" or "run"; "" if there are none."""

    axis: str  # "scale" or "step"
    value: float
    pipeline: Callable[[], Pipeline]
    drawn: str = ""

    @property
    def name(self) -> str:
        return f"{self.axis} {self.value:,g}"


class Models:
    """Pipelines of one run folder. Raises ValueError if its weights, or the files it was trained from, do not exist."""

    def __init__(self, run: Path, cfg: Any, device: str) -> None:
        self.run, self.cfg, self.device = run, cfg, device
        if cfg.pretrained and "base_record" in cfg:
            config.resolve_files(cfg)
        with unchanged(weights_file(run)) as self.sha256:
            self.weights, description = load_weights(weights_file(run))
        self.shape, step = description["shape"], description.get("step")
        self.step = step if isinstance(step, int) else None

    @property
    def scale(self) -> float | None:
        """The strength of the run's adapter; None without one."""
        scale = self.cfg.adapter.get("scale")
        return None if scale is None else float(scale)

    def own(self) -> Pipeline:
        return self._with(self.cfg, self.weights)

    def base(self) -> Pipeline | None:
        """Return the model that the run started from, with the run's sampling settings; None if there is none.

        The run's adapter is built but not trained, so it changes nothing.
        """
        return assemble(self.cfg, build_network(self.cfg), self.shape, self.device) if self.cfg.pretrained else None

    def scale_rows(self, scales: Sequence[float]) -> list[Row]:
        """Return a row for each strength: the adapter's `scale`, or a linear mix of the base's weights and the run's.

        The list is empty for a run without a base, and for an adapter that has no scale.
        """
        has_scale = "scale" in self.cfg.adapter
        if not self.cfg.pretrained or (is_adapted(self.cfg) and not has_scale):
            return []
        at = self._scaled if has_scale else self._between
        drawn = {self.scale if has_scale else 1.0: "run", 0.0: "base"}
        return [Row("scale", scale, partial(at, scale), drawn.get(float(scale), "")) for scale in scales]

    def step_rows(self) -> Iterator[Row]:
        """Yield a row for each undamaged checkpoint, oldest first, with the weights of its first average."""
        for file in reversed(by_step(RunFolder(self.run).checkpoints)):
            if damage(file) is None:
                step = int(file.stem.rpartition("_")[2])
                yield Row("step", step, partial(self._at, file), "run" if step == self.step else "")

    def _scaled(self, scale: float) -> Pipeline:
        other = copy.deepcopy(self.cfg)
        other.adapter.scale = float(scale)
        return self._with(other, self.weights)

    def _between(self, scale: float) -> Pipeline:
        base = build_network(self.cfg).state_dict()
        return self._with(self.cfg, {name: _mix(base[name], value, scale) for name, value in self.weights.items()})

    def _at(self, file: Path) -> Pipeline:
        return self._with(self.cfg, checkpoint_weights(load(file), averaged=True))

    def _with(self, cfg: Any, weights: dict[str, Tensor]) -> Pipeline:
        return restore(cfg, weights, self.shape, self.device)


def _mix(base: Tensor, value: Tensor, scale: float) -> Tensor:
    return torch.lerp(base.to(value), value, scale) if value.is_floating_point() else value
