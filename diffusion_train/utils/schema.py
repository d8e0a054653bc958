"""Compares nested data with a schema, and lists everything that does not fit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any

from diffusion_train.utils.text import printable

# A mapping lists keys that must exist, and others may exist too. A list has one element: the schema of every item.
Schema = Any

_DEEPEST = 100


@dataclass(frozen=True)
class Leaf:
    """A value that `accepts` returns true for; `what` says which values these are."""

    what: str
    accepts: Callable[[Any], bool]


@dataclass(frozen=True)
class Each:
    """A mapping whose keys are of class `key` and whose values all have the schema `value`."""

    value: Schema
    key: type = str


@dataclass(frozen=True)
class Maybe:
    """In a mapping: the schema of a key that may be missing."""

    value: Schema


def problems(value: Any, schema: Schema, name: str = "") -> Iterator[str]:
    """Yield a line for everything in `value` that is missing or is not what `schema` says, with its name."""
    if isinstance(schema, Leaf):
        if not _accepts(schema, value):
            yield f"{name}: must be {schema.what}, got {shown(value)}"
    elif isinstance(schema, list):
        if not isinstance(value, (list, tuple)):
            yield f"{name}: must be a list, got {shown(value)}"
            return
        for number, item in enumerate(value):
            yield from problems(item, schema[0], f"{name}[{number}]")
    elif not isinstance(value, Mapping):
        yield f"{name}: must be a mapping, got {shown(value)}"
    elif isinstance(schema, Each):
        for key, item in value.items():
            below = _below(name, key)
            if isinstance(key, schema.key):
                yield from problems(item, schema.value, below)
            else:
                yield f"{below}: the key must be of type {schema.key.__name__}"
    else:
        yield from _entries(value, schema, name)


def _entries(value: Mapping[Any, Any], schema: Mapping[str, Schema], name: str) -> Iterator[str]:
    for key, expected in schema.items():
        below = _below(name, key)
        if key in value:
            yield from problems(value[key], expected.value if isinstance(expected, Maybe) else expected, below)
        elif not isinstance(expected, Maybe):
            yield f"{below}: missing"


def _accepts(leaf: Leaf, value: Any) -> bool:
    try:
        return bool(leaf.accepts(value))
    except Exception:  # noqa: BLE001  a value of another class may raise anything
        return False


def _below(name: str, key: object) -> str:
    return f"{name}.{printable(str(key))}" if name else printable(str(key))


def shown(value: object) -> str:
    """Return a short text for a value: itself if it is plain, else its class."""
    plain = value is None or isinstance(value, (bool, int, float, str))
    return printable(repr(value), 40) if plain else type(value).__name__


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and isfinite(value)


def _is_plain(value: Any, depth: int = 0) -> bool:
    if value is None or isinstance(value, (bool, int, float, str)):
        return True
    if depth == _DEEPEST or not isinstance(value, (dict, list, tuple)):
        return False
    if isinstance(value, dict) and not all(isinstance(key, (str, int)) for key in value):
        return False
    items = value.values() if isinstance(value, dict) else value
    return all(_is_plain(item, depth + 1) for item in items)


COUNT = Leaf("a whole number of at least 0", _is_count)
SIZE = Leaf("a whole number of at least 1", lambda value: _is_count(value) and value > 0)
NUMBER = Leaf("a finite number", _is_number)
DURATION = Leaf("a finite number of at least 0", lambda value: _is_number(value) and value >= 0)
FLAG = Leaf("true or false", lambda value: isinstance(value, bool))
TEXT = Leaf("a text", lambda value: isinstance(value, str))
TEXT_OR_NONE = Leaf("a text or null", lambda value: value is None or isinstance(value, str))
PLAIN = Leaf("plain data", _is_plain)
PLAIN_MAPPING = Leaf("a mapping of plain data", lambda value: isinstance(value, dict) and _is_plain(value))
