"""Check the values of a composed config: missing ones, unresolvable interpolations and wrong types."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from math import isfinite
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Override, OverrideType
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationToMissingValueError, OmegaConfBaseException

from diffusion_train.config.checks.annotations import fits
from diffusion_train.config.folders import walk
from diffusion_train.config.mistakes import Mistake, first_lines, listed
from diffusion_train.config.targets import forbidden, is_trusted
from diffusion_train.config.training_config import TYPES

_OVERRIDES = ("hydra.overrides.hydra", "hydra.overrides.task")
# What Hydra itself writes into its node.
_HYDRAS_OWN = (
    "hydra.runtime.",
    "hydra.job.name",
    "hydra.job.config_name",
    "hydra.job.override_dirname",
    "hydra.searchpath",
)
_SCALARS = {bool: "true or false", int: "a whole number", float: "a number"}


def keys(cfg: DictConfig) -> list[str]:
    """Return every dotted key except those of `hydra`."""
    plain: Any = OmegaConf.to_container(cfg, resolve=False)
    plain.pop("hydra", None)
    return [path for path, _ in walk(plain) if "_target_" not in path]


def settings(node: object, path: str) -> dict[str, Any]:
    """Return dotted key (below `path`) -> value, without containers."""
    return {key: value for key, value in walk(node, path) if not isinstance(value, dict)}


def is_unknown(key: str, cfg: DictConfig) -> bool:
    """Whether a dictionary on the path of a dotted key lacks the next part of it."""
    node: Any = OmegaConf.to_container(cfg, resolve=False)
    for part in key.split("."):
        if not isinstance(node, dict):
            return False
        if part not in node:
            return True
        node = node[part]
    return False


def is_addable(key: str, cfg: DictConfig) -> bool:
    """Whether something may read a new key: it lies in a part, or in a collection of parts such as `callbacks`."""
    node: Any = OmegaConf.to_container(cfg, resolve=False)
    for name in key.split(".")[:-1]:
        node = node.get(name)
        if not isinstance(node, dict):
            return False
        if "_target_" in node or any(isinstance(child, dict) and "_target_" in child for child in node.values()):
            return True
    return False


def unusable(cfg: DictConfig) -> list[Mistake]:
    """Return a mistake for each value that is missing, is not finite, or refers to a key that does not exist.

    If there are none, return a mistake for each target that is not allowed.
    """
    known: Any = HydraConfig.instance()  # ${hydra:...} reads it
    before, known.cfg = known.cfg, cfg
    plain: Any = OmegaConf.to_container(cfg, resolve=False)
    try:
        own = [key for key in cfg if key != "hydra"]
        wrong = [mistake for key in own for mistake in _broken(cfg, key, str(key))]
        if wrong := [*wrong, *(mistake for key in own for mistake in not_finite(plain[key], str(key)))]:
            return wrong
        nodes = {str(key): cfg[key] for key in own if OmegaConf.is_config(cfg[key])}
        return [m for key, node in nodes.items() for m in forbidden(OmegaConf.to_container(node, resolve=True), key)]
    finally:
        known.cfg = before


def not_finite(node: object, path: str) -> Iterator[Mistake]:
    """Yield a mistake for each number in plain containers that is infinite or no number.

    Parts that the command line alone allows may have such settings.
    """
    if isinstance(node, dict) and not is_trusted(str(node.get("_target_", ""))):
        for key, value in node.items():
            yield from not_finite(value, f"{path}.{key}")
    elif isinstance(node, list):
        for i, value in enumerate(node):
            yield from not_finite(value, f"{path}[{i}]")
    elif isinstance(node, float) and not isfinite(node):
        yield Mistake(f"{path}={node}", "must be a finite number")


def _broken(parent: Any, key: Any, path: str) -> Iterator[Mistake]:
    if OmegaConf.is_missing(parent, key):
        yield Mistake(path, "must be given", f"add {path}=...")
        return
    if OmegaConf.is_interpolation(parent, key):
        try:
            parent[key]
        except InterpolationToMissingValueError:
            return  # reported where the value is missing
        except OmegaConfBaseException as error:
            raw: Any = OmegaConf.to_container(parent, resolve=False)
            yield Mistake(path, f"{raw[key]} cannot be resolved: {first_lines(error)}")
        return
    child = parent[key]
    if OmegaConf.is_dict(child):
        for name in child:
            yield from _broken(child, name, f"{path}.{name}")
    elif OmegaConf.is_list(child):
        for i in range(len(child)):
            yield from _broken(child, i, f"{path}[{i}]")


def hydra_mistakes(hydra: DictConfig, expected: DictConfig, lines: Collection[str]) -> list[Mistake]:
    """Return the mistakes in the `hydra` node, with which Hydra imports and calls targets before all other checks.

    Config files may set nothing in it: `expected` is the node that the command line alone gives, with the overrides
    `lines`. The command line may name targets of Hydra, its plugins and logging.
    """
    found, wanted = (OmegaConf.to_container(node, resolve=False) for node in (hydra, expected))
    before, now = settings(wanted, "hydra"), settings(found, "hydra")
    changed = [key for key in {**now, **before} if now.get(key, "") != before.get(key, "")]
    given = {*lines, *before["hydra.overrides.hydra"]}
    mistakes = [
        Mistake(key, "cannot be set in a config file", "give it on the command line")
        for key in changed
        if not (set(now[key]) <= given if key in _OVERRIDES else key.startswith(_HYDRAS_OWN))
    ]
    for key, value in before.items():
        called = key.rpartition(".")[2] in ("_target_", "()", "class")
        if called and not str(value).startswith(("hydra._internal.", "hydra_plugins.", "logging.", "colorlog.")):
            mistakes.append(Mistake(key, f"{value!r} is not an allowed target", "leave it out"))
    return mistakes


def set_value(cfg: DictConfig, override: Override, groups: Collection[str] = ()) -> list[Mistake]:
    """Set a key if the new value has the type of the old one; return the mistakes.

    A mapping is merged into the old one, as Hydra does, unless it names a class, whose settings are other ones.
    `groups` are used to suggest a group's option if that was meant.
    """
    mistakes = list(type_mistakes(override, cfg, groups))
    if not mistakes:
        key, is_new = override.key_or_group, override.type != OverrideType.CHANGE
        value = override.value()
        is_part = isinstance(value, dict) and "_target_" in value
        try:
            OmegaConf.update(cfg, key, value, merge=not is_part, force_add=is_new)
        except OmegaConfBaseException as error:
            mistakes = [Mistake(str(override.input_line), first_lines(error))]
    return mistakes


def type_mistakes(override: Override, base: DictConfig, groups: Collection[str]) -> Iterator[Mistake]:
    """Yield a mistake if the value has another type than the default in `base`; interpolations are not checked."""
    key, value = override.key_or_group, override.value()
    if value is None or (isinstance(value, str) and "${" in value) or _is_reference(base, key):
        return
    try:
        default = OmegaConf.select(base, key, throw_on_missing=False)
    except OmegaConfBaseException:
        return
    line = str(override.input_line)
    if isinstance(default, DictConfig) and not isinstance(value, dict):
        group = key.replace(".", "/")
        inside = listed([f"{key}.{child!s}" for child in default if child != "_target_"])
        remedy = f"choose an option of the group: {group}={value}" if group in groups else f"its keys: {inside}"
        yield Mistake(line, f"{key!r} holds keys, not a single value", remedy)
    kind = type(default)
    if kind in _SCALARS and not fits(value, TYPES.get(key, kind)):
        is_whole = kind is int and isinstance(value, float) and value.is_integer()
        remedy = f"write {key}={value:.0f}" if is_whole else ""
        yield Mistake(line, f"{key!r} must be {_SCALARS[kind]}{_or_auto(key)}, got {value!r}", remedy)


def _or_auto(key: str) -> str:
    return ", or auto" if key in TYPES and fits("auto", TYPES[key]) and not fits("", TYPES[key]) else ""


def _is_reference(base: DictConfig, key: str) -> bool:
    *path, name = key.split(".")
    node: Any = base
    for part in path:
        node = node._get_node(part) if isinstance(node, DictConfig) else None
    return isinstance(node, DictConfig) and name in node and OmegaConf.is_interpolation(node, name)
