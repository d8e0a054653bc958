"""Build objects from a config: which `_target_`s are allowed, and how they are imported and called."""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf

from diffusion_train.config.mistakes import Mistake, raise_all

_PARTS = (
    *("adapter", "autoencoder", "callbacks", "conditioner", "data", "diffusion", "guidance", "logger", "metric"),
    *("network", "prepare", "sampler", "training"),
)
_PREFIXES = tuple(f"diffusion_train.{part}." for part in _PARTS)
_NAMES = frozenset(
    [
        "pytorch_lightning.Trainer",
        *(f"torch.optim.{name}" for name in ("Adam", "AdamW", "Adamax", "NAdam", "RAdam", "RMSprop", "SGD")),
        *(f"pytorch_lightning.loggers.{name}" for name in ("CSVLogger", "TensorBoardLogger", "WandbLogger")),
        *(
            f"pytorch_lightning.callbacks.{name}"
            for name in ("DeviceStatsMonitor", "EarlyStopping", "LearningRateMonitor", "ModelSummary", "Timer")
        ),
        *(f"pytorch_lightning.strategies.{name}" for name in ("DDPStrategy", "FSDPStrategy")),
        *(f"pytorch_lightning.profilers.{name}" for name in ("SimpleProfiler", "AdvancedProfiler", "PyTorchProfiler")),
    ]
)

_from_command_line: frozenset[str] = frozenset()


def allow(entries: Iterable[str]) -> None:
    """Trust further targets in this process: `my_package.` and everything below it, or one full name.

    Only the command line may do this; otherwise a config or checkpoint could allow its own targets.
    """
    global _from_command_line
    _from_command_line = frozenset(entries)


def is_allowed(name: str) -> bool:
    return all(part.isidentifier() and part[0] != "_" for part in name.split(".")) and _is_listed(name)


def _is_listed(name: str) -> bool:
    prefixes = (*_PREFIXES, *(entry.rstrip(".") + "." for entry in _from_command_line))
    return name in _NAMES | _from_command_line or name.startswith(prefixes)


def targets(node: object, path: str = "") -> Iterator[tuple[str, object]]:
    """Yield (dotted key of the node, name) for every `_target_` in plain containers."""
    if isinstance(node, dict):
        if "_target_" in node:
            yield path, node["_target_"]
        for key, value in node.items():
            yield from targets(value, f"{path}.{key}" if path else str(key))
    elif isinstance(node, list):
        for i, value in enumerate(node):
            yield from targets(value, f"{path}[{i}]")


def forbidden(node: object, path: str = "") -> list[Mistake]:
    """Return a mistake for every target that is not allowed. Imports nothing."""
    return [
        Mistake(
            f"{where}._target_" if where else "_target_",
            f"{name!r} is not an allowed target",
            f"if you trust it, add allow_targets=[{str(name).rpartition('.')[0] or name}.] on the command line",
        )
        for where, name in targets(node, path)
        if not isinstance(name, str) or not is_allowed(name)
    ]


def locate(name: str) -> Callable[..., Any]:
    """Return the class or function of an allowed target.

    Raises ValueError if it cannot be found, or if an allowed module only imports it from one that is not allowed.
    """
    if not is_allowed(name):
        raise ValueError(f"{name!r} is not an allowed target")
    module_name, _, attribute = name.rpartition(".")
    try:
        target = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{name!r} cannot be imported: {error}") from error
    if not (inspect.isclass(target) or inspect.isfunction(target)):
        raise ValueError(f"{name!r} is neither a class nor a function")
    if not _is_at_home(target, name):
        home = f"{target.__module__}.{target.__qualname__}"
        raise ValueError(f"{name!r} is another name of {home!r}, which is not an allowed target")
    return target


def _is_at_home(target: Any, name: str) -> bool:
    """Whether a target is defined in an allowed module. Listed names may be re-exported, such as torch.optim.AdamW."""
    if name in _NAMES:
        return str(target.__module__).split(".")[0] == name.split(".")[0]
    return _is_listed(f"{target.__module__}.{target.__qualname__}")


def build(node: Any, /, **kwargs: Any) -> Any:
    """Build the object of a config node; `kwargs` are further arguments, passed on unchanged.

    Raises ConfigError for targets that are not allowed, before anything is imported, and whatever the target raises.
    """
    if not isinstance(node, (DictConfig, ListConfig)):
        node = OmegaConf.create(node)
    check_targets(node)
    try:
        if not kwargs:
            return instantiate(node, _convert_="all")
        if node.get("_partial_", False):
            return functools.partial(instantiate(node, _convert_="all"), **kwargs)
        return instantiate(node, _convert_="all", _partial_=True)(**kwargs)
    except InstantiationException as error:
        raise _cause(error) from error


def check_targets(config: object) -> None:
    """Raises ConfigError with every target that is not allowed, or else with every one that `locate` rejects."""
    where = ""
    if isinstance(config, (DictConfig, ListConfig)):
        where = str(config._get_full_key(None) or "")
        config = OmegaConf.to_container(config, resolve=True)
    raise_all(forbidden(config, where))
    mistakes = []
    for path, name in targets(config, where):
        try:
            locate(str(name))
        except ValueError as error:
            mistakes.append(Mistake(f"{path}._target_" if path else "_target_", str(error)))
    raise_all(mistakes)


def _cause(error: BaseException) -> BaseException:
    """Return the exception that the target raised, which Hydra wraps once for each level."""
    key = ""
    while isinstance(error, InstantiationException) and error.__cause__ is not None:
        key = str(error).rpartition("full_key: ")[2].strip() if "full_key: " in str(error) else key
        error = error.__cause__
    if key:
        error.add_note(f"while building {key}")
    return error
