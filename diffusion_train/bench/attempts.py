"""The settings that bench tries in place of the present ones. They change a run by rounding at most."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from diffusion_train.bench.trial import Facts
from diffusion_train.config.checks.signatures import default
from diffusion_train.utils.process.workers import available


@dataclass(frozen=True)
class Attempt:
    """A change of `kind`: values of settings by dotted key, and variables of the environment."""

    kind: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        """The change as a command line has it."""
        return " ".join([*self.variables, *self.overrides])

    @property
    def variables(self) -> list[str]:
        """What stands before the command."""
        return [f"{name}={value}" for name, value in self.environment.items()]

    @property
    def overrides(self) -> list[str]:
        """What stands behind the command. A setting that the class leaves to its default is added with ++."""
        return [f"{'++' if key == _FUSED else ''}{key}={_yaml(value)}" for key, value in self.settings.items()]

    def applied(self, cfg: DictConfig) -> DictConfig:
        changed = copy.deepcopy(cfg)
        for key, value in self.settings.items():
            OmegaConf.update(changed, key, value, force_add=True)
        return changed


def joined(attempts: list[Attempt]) -> Attempt:
    """Return all changes as one."""
    settings = {key: value for attempt in attempts for key, value in attempt.settings.items()}
    environment = {name: value for attempt in attempts for name, value in attempt.environment.items()}
    return Attempt(" and ".join(attempt.kind for attempt in attempts), settings, environment)


def attempts(cfg: DictConfig, facts: Facts) -> list[Attempt]:
    """Return what can be tried in place of a config, whose run has these facts."""
    return [attempt for kind in cfg.attempts for attempt in KINDS[kind](cfg, facts)]


def _precision(cfg: DictConfig, facts: Facts) -> Iterator[Attempt]:
    on_gpu = torch.cuda.is_available() and cfg.trainer.accelerator != "cpu"
    for precision in ("bf16-mixed", *(["16-mixed"] if on_gpu else []), "32-true"):
        if precision != facts.precision and facts.precision != "64-true":
            yield Attempt("precision", {"trainer.precision": precision})


def _channels_last(cfg: DictConfig, facts: Facts) -> Iterator[Attempt]:
    if facts.has_convolutions:
        yield Attempt("channels_last", {"channels_last": not cfg.channels_last})


def _compile(cfg: DictConfig, facts: Facts) -> Iterator[Attempt]:
    yield Attempt("compile", {"compile": not cfg.compile})


def _micro_batch(cfg: DictConfig, facts: Facts) -> Iterator[Attempt]:
    key = "micro_batch_size"
    if key not in cfg.data:
        return
    present = min(cfg.data[key] or facts.rows, facts.rows)
    for size in (present // 2, min(2 * present, facts.rows)):
        if size and size != present:
            yield Attempt("micro_batch", {f"data.{key}": size})


def _workers(cfg: DictConfig, facts: Facts) -> Iterator[Attempt]:
    if "num_workers" not in cfg.data:
        return
    present, most = cfg.data.num_workers, available()
    for count in sorted({0, min(2, most), min(2 * present or most, most)} - {present}):
        yield Attempt("workers", {"data.num_workers": count})


_FUSED = "optimizer.fused"


def _optimizer(cfg: DictConfig, facts: Facts) -> Iterator[Attempt]:
    """Torch's optimizers update all weights in one kernel if they are `fused`."""
    if facts.is_fused:
        return
    try:
        default(str(cfg.optimizer["_target_"]), "fused")
    except KeyError:
        return
    yield Attempt("optimizer", {_FUSED: True})


def _threads(cfg: DictConfig, facts: Facts) -> Iterator[Attempt]:
    """Try other numbers of threads; on a GPU few threads of the CPU compute anything."""
    if torch.cuda.is_available() and cfg.trainer.accelerator != "cpu":
        return
    most = available()
    for count in sorted({most, max(most // 2, 1)} - {facts.num_threads}, reverse=True):
        yield Attempt("threads", environment={"OMP_NUM_THREADS": str(count)})


KINDS: dict[str, Callable[[DictConfig, Facts], Iterator[Attempt]]] = {
    "precision": _precision,
    "channels_last": _channels_last,
    "compile": _compile,
    "micro_batch": _micro_batch,
    "workers": _workers,
    "optimizer": _optimizer,
    "threads": _threads,
}


def _yaml(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
