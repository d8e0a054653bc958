"""Build objects from a config: which `_target_`s are allowed, and how they are imported and called."""

from __future__ import annotations

import functools
import importlib
import inspect
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf

from diffusion_train.config.mistakes import Mistake, listed, raise_all
from diffusion_train.config.secrets import escape
from diffusion_train.config.slots import BASES, HYDRA_KEYS, slots

OWN = "diffusion_train"

_from_command_line: frozenset[str] = frozenset()


def allow(entries: Iterable[str]) -> None:
    """Trust further targets in this process: `my_package.` and everything below it, or one full name.

    Only the command line may do this; otherwise a config or checkpoint could allow its own targets. Nothing of this
    package is allowed by it.
    """
    global _from_command_line
    _from_command_line = frozenset(entries)


def allowed() -> tuple[str, ...]:
    """Return what `allow` was given, for a process that this one starts."""
    return tuple(_from_command_line)


def is_trusted(name: str) -> bool:
    """Whether the command line allows a target."""
    prefixes = tuple(entry.rstrip(".") + "." for entry in _from_command_line)
    is_name = all(part.isidentifier() and part[0] != "_" for part in name.split("."))
    return is_name and name.partition(".")[0] != OWN and (name in _from_command_line or name.startswith(prefixes))


def targets(node: object, path: str = "") -> Iterator[tuple[str, object]]:
    """Yield (dotted key of the node, name) for every `_target_` in plain containers."""
    for where, part in _mappings(node, path):
        if "_target_" in part:
            yield where, part["_target_"]


def _mappings(node: object, path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (dotted key, mapping) of every mapping in plain containers, outer ones first."""
    if isinstance(node, dict):
        yield path, node
        for key, value in node.items():
            yield from _mappings(value, f"{path}.{key}" if path else str(key))
    elif isinstance(node, list):
        for i, value in enumerate(node):
            yield from _mappings(value, f"{path}[{i}]")


def forbidden(node: object, path: str = "") -> list[Mistake]:
    """Return a mistake for every target, and every further key of Hydra, that its slot does not have in conf.

    `path` is the dotted key of the node. The command line's own targets fill any slot, and inside of them any target
    of conf or of their own is allowed. Imports nothing.
    """
    mistakes: list[Mistake] = []
    inside: list[str] = []  # keys of the command line's own parts
    for where, part in _mappings(node, path):
        if where.startswith(tuple(f"{outer}{end}" for outer in inside for end in ".[")):
            allowed, hydra_keys = frozenset[str]().union(*slots().targets.values()), HYDRA_KEYS
        else:
            slot = slots().find(_names(where))
            allowed, hydra_keys = slots().targets.get(slot, frozenset()), slots().hydra_keys.get(slot, frozenset())
        name = part.get("_target_")
        is_own = bool(allowed) and isinstance(name, str) and is_trusted(name)
        inside += [where] * is_own
        if "_target_" in part and not (is_own or (isinstance(name, str) and name in allowed)):
            mistakes.append(_not_allowed(where, name, allowed))
        mistakes += [
            Mistake(_at(where, key), "is not a setting of this key", "leave it out")
            for key in sorted(HYDRA_KEYS & part.keys() - hydra_keys)
        ]
    return mistakes


def _not_allowed(where: str, name: object, allowed: frozenset[str]) -> Mistake:
    remedy = f"if you trust it, add allow_targets=[{str(name).rpartition('.')[0] or name}.] on the command line"
    if not allowed:
        remedy = "this key is for data, so leave _target_ out"
    elif str(name).partition(".")[0] == OWN:
        remedy = f"{where} may be {listed(sorted(entry.rpartition('.')[2] for entry in allowed))}"
    return Mistake(_at(where, "_target_"), f"{name!r} is not an allowed target", remedy)


def _at(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key


def _names(where: str) -> tuple[str, ...]:
    """Split a dotted key: `a.b[0]` is a, b, [0]."""
    return tuple(re.findall(r"\[\d+\]|[^.\[]+", where))


def locate(name: str, where: str = "") -> Callable[..., Any]:
    """Return the class or function of an allowed target; `where` is the dotted key that it is for.

    Raises ValueError if it cannot be found, if an allowed module only imports it from one that is not allowed, and if
    it is a class of another kind than the key needs.
    """
    is_of_conf = any(name in names for names in slots().targets.values())
    if not (is_of_conf or is_trusted(name)):
        raise ValueError(f"{name!r} is not an allowed target")
    target = _imported(name)
    if not (inspect.isclass(target) or inspect.isfunction(target)):
        raise ValueError(f"{name!r} is neither a class nor a function")
    home = f"{target.__module__}.{target.__qualname__}"
    if not (home.partition(".")[0] == name.partition(".")[0] if is_of_conf else is_trusted(home)):
        raise ValueError(f"{name!r} is another name of {home!r}, which is not an allowed target")
    base = _base(where)
    if base and inspect.isclass(target) and not issubclass(target, base):
        raise ValueError(f"must be a {base.__name__}, got {name!r}")
    return target


def _imported(name: str) -> Any:
    module, _, attribute = name.rpartition(".")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{name!r} cannot be imported: {error}") from error


def _base(where: str) -> type | None:
    """Return the class that the slot at a dotted key needs, or None if it accepts any."""
    name = BASES.get(slots().find(_names(where)))
    return _imported(name) if name else None


def build(node: Any, where: str = "", /, **kwargs: Any) -> Any:
    """Build the object of a config node; `kwargs` are further arguments, passed on unchanged.

    `where` is the dotted key of a node that is in no config. Raises ConfigError for targets that are not allowed at
    their keys, before anything is imported, and for objects of the wrong kind, and whatever the target raises.
    """
    if isinstance(node, (DictConfig, ListConfig)):
        where = where or str(node._get_full_key(None) or "")
        node = OmegaConf.to_container(node, resolve=True)
    check_targets(node, where)
    node = escape(node)  # what is built is what was checked: nothing is resolved again
    try:
        if not kwargs:
            built = instantiate(node, _convert_="all")
        elif node.get("_partial_", False):
            built = functools.partial(instantiate(node, _convert_="all"), **kwargs)
        else:
            built = instantiate(node, _convert_="all", _partial_=True)(**kwargs)
    except InstantiationException as error:
        raise _cause(error, where) from error
    base = _base(where)
    if base and "_target_" in node and not isinstance(built, (base, functools.partial)):
        problem = f"must give a {base.__name__}, got a {type(built).__name__}"
        raise_all([Mistake(_at(where, "_target_"), problem)])
    return built


def check_targets(node: object, where: str = "") -> None:
    """Raises ConfigError with every target that is not allowed, or else with every one that `locate` rejects.

    `where` is the dotted key of the node, of plain containers.
    """
    raise_all(forbidden(node, where))
    mistakes = []
    for path, name in targets(node, where):
        try:
            locate(str(name), path)
        except ValueError as error:
            mistakes.append(Mistake(_at(path, "_target_"), str(error)))
    raise_all(mistakes)


def _cause(error: BaseException, where: str) -> BaseException:
    """Return the exception that the target raised, which Hydra wraps once for each level."""
    key = ""
    while isinstance(error, InstantiationException) and error.__cause__ is not None:
        key = str(error).rpartition("full_key: ")[2].strip() if "full_key: " in str(error) else key
        error = error.__cause__
    if key:
        error.add_note(f"while building {_at(where, key)}")
    return error
