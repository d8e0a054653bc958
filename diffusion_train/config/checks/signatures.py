"""Compare a config with the signatures of its targets, before data or weights are read."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from diffusion_train.config.checks.annotations import value_mistakes
from diffusion_train.config.folders import walk
from diffusion_train.config.mistakes import Mistake, did_you_mean, raise_all
from diffusion_train.config.open_settings import with_stand_ins
from diffusion_train.config.slots import HYDRA_KEYS
from diffusion_train.config.targets import forbidden, locate
from diffusion_train.utils.text import NOT_SET

_REFERENCE = re.compile(r"\$\{\s*(?:oc\.select:)?\s*(\.*)([\w.\[\]]+)\s*[},]")


def check(cfg: DictConfig, read: Collection[str] = ()) -> None:
    """Raises ConfigError with every target, key and value that does not fit.

    `read` are the keys that the calling code reads itself, with everything below them.
    """
    cfg = with_stand_ins(cfg)
    raise_all(forbidden(OmegaConf.to_container(cfg, resolve=True)))
    mistakes = [mistake for path, node in target_nodes(cfg) for mistake in _node_mistakes(path, node)]
    raise_all([*mistakes, *unread(cfg, read)])


def unread(cfg: DictConfig, read: Collection[str]) -> list[Mistake]:
    """Return a mistake for each key outside of targets that neither the code nor an interpolation reads."""
    plain = OmegaConf.to_container(cfg, resolve=False)
    used = [*read, *_references(plain)]
    return [
        Mistake(path, "nothing reads this key", _remedy(path, used))
        for path in _plain_leaves(plain)
        if not any(path == name or path.startswith((f"{name}.", f"{name}[")) for name in used)
    ]


def setting_mistakes(cfg: DictConfig, key: str) -> list[Mistake]:
    """Return the mistakes at a key inside a part, such as a setting that the class of the part does not have."""
    above = [(path, node) for path, node in target_nodes(cfg) if key.startswith(f"{path}.")]
    return [mistake for path, node in above[-1:] for mistake in _node_mistakes(path, node) if key in mistake.where]


def _remedy(path: str, used: Collection[str]) -> str:
    group, _, name = path.partition(".")
    return (
        f"to leave it out, write '~{path}'"
        if group == "callbacks" and name.isidentifier()
        else did_you_mean(path, used)
    )


def target_nodes(parent: Any, path: str = "") -> Iterator[tuple[str, DictConfig]]:
    """Yield (dotted key, node) of every node with a `_target_`, without those that interpolations repeat."""
    if OmegaConf.is_dict(parent) and "_target_" in parent:
        yield path, parent
    children: Any = parent.keys() if OmegaConf.is_dict(parent) else range(len(parent))
    for key in children:
        if OmegaConf.is_missing(parent, key) or OmegaConf.is_interpolation(parent, key):
            continue
        if isinstance(parent[key], (DictConfig, ListConfig)):
            where = f"{path}[{key}]" if OmegaConf.is_list(parent) else f"{path}.{key}".lstrip(".")
            yield from target_nodes(parent[key], where)


def _node_mistakes(path: str, node: DictConfig) -> Iterator[Mistake]:
    where = f"{path}." if path else ""
    try:
        target = locate(node["_target_"], path)
    except ValueError as error:
        yield Mistake(f"{where}_target_", str(error))
        return
    parameters = _parameters(target)
    open_ended = any(p.kind == p.VAR_KEYWORD for p in parameters.values())
    accepted = [n for n, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    plain: Any = OmegaConf.to_container(node, resolve=True)
    values = {str(key): value for key, value in plain.items() if key not in {"_target_", *HYDRA_KEYS}}
    name = node["_target_"].rpartition(".")[2]
    for key, value in values.items():
        if key in accepted and value != "???":
            yield from value_mistakes(_source(node, key) or f"{where}{key}", value, parameters[key].annotation)
        elif key not in accepted and not open_ended:
            remedy = did_you_mean(key, accepted) or f"its settings: {', '.join(accepted) or 'none'}"
            yield Mistake(f"{where}{key}", f"{name} has no such setting", remedy)
    if node.get("_partial_", False):
        return
    positional = len(node.get("_args_", ()))
    for key in accepted[positional:]:
        if parameters[key].default is inspect.Parameter.empty and values.get(key, "???") == "???":
            yield Mistake(f"{where}{key}", f"{name} needs this setting", f"add {where}{key}=...")


def default(target: str, name: str) -> Any:
    """Return what a class uses for a setting that a config leaves out, as plain data; NOT_SET if the class chooses.

    Raises KeyError if it has no such setting.
    """
    try:
        parameters = _parameters(locate(target))
    except ValueError:
        return NOT_SET
    if name not in parameters:
        if any(p.kind == p.VAR_KEYWORD for p in parameters.values()):
            return NOT_SET
        raise KeyError(name)
    value = parameters[name].default
    if value is inspect.Parameter.empty:
        return NOT_SET
    return list(value) if isinstance(value, tuple) else value


def _source(node: DictConfig, key: str) -> str | None:
    """Return `a.b` for a setting `${a.b}`, because that is the key that a user sets; else None."""
    written: Any = OmegaConf.to_container(node, resolve=False)
    match = re.fullmatch(r"\$\{([\w.]+)\}", str(written[key]))
    return match[1] if match and not match[1].startswith(".") else None


def _parameters(target: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(target, eval_str=True).parameters
    except (NameError, AttributeError, TypeError):  # annotations that only type checkers can evaluate
        return inspect.signature(target).parameters


def _references(plain: object) -> Iterator[str]:
    for path, value in walk(plain):
        for dots, name in _REFERENCE.findall("" if isinstance(value, dict) else str(value)):
            above = path.split(".")[: -len(dots)] if dots else []
            yield ".".join([*above, name])


def _plain_leaves(node: object, path: str = "") -> Iterator[str]:
    """Yield the dotted keys of values, without those inside a target."""
    if isinstance(node, dict) and "_target_" not in node:
        for key, value in node.items():
            yield from _plain_leaves(value, f"{path}.{key}" if path else str(key))
    elif isinstance(node, list) and any(isinstance(item, (dict, list)) for item in node):
        for i, value in enumerate(node):
            yield from _plain_leaves(value, f"{path}[{i}]")
    elif not isinstance(node, dict):
        yield path
