"""Check whether plain data and parts fit the annotation of a parameter."""

from __future__ import annotations

import collections.abc
import inspect
import re
import types
import typing
from collections.abc import Iterator
from typing import Any

from diffusion_train.config.mistakes import Mistake
from diffusion_train.config.targets import locate

_SEQUENCES = (
    list,
    tuple,
    set,
    frozenset,
    collections.abc.Sequence,
    collections.abc.Collection,
    collections.abc.Iterable,
)
_MAPPINGS = (dict, collections.abc.Mapping)


def value_mistakes(key: str, value: object, annotation: Any) -> Iterator[Mistake]:
    """Yield a mistake if `value`, plain data or the node of a part, does not fit the annotation."""
    if isinstance(value, dict) and "_target_" in value:
        yield from _part_mistakes(key, value, annotation)
    elif not fits(value, annotation):
        shown = getattr(annotation, "__name__", None) if inspect.isclass(annotation) else None
        yield Mistake(key, f"must be {shown or _type_name(annotation)}, got {value!r}")


def _part_mistakes(key: str, value: dict[str, Any], annotation: Any) -> Iterator[Mistake]:
    """Yield a mistake if the part is of another kind, for instance a sampler in place of a schedule."""
    wanted = typing.get_args(annotation) or (annotation,)
    if (
        not all(map(inspect.isclass, wanted))
        or value.get("_partial_")
        or any(getattr(a, "_is_protocol", False) for a in wanted)
    ):
        return
    try:
        part = locate(value["_target_"], key)
    except ValueError:
        return  # reported at the part itself
    builtin = any(a.__module__ in ("builtins", "collections.abc", "typing") and a is not type(None) for a in wanted)
    origin = typing.get_origin(annotation)
    if origin not in (None, types.UnionType, typing.Union) or builtin or not inspect.isclass(part):
        return
    if not issubclass(part, wanted):
        yield Mistake(key, f"must be a {wanted[0].__name__}, got {part.__name__}")


def fits(value: object, annotation: Any) -> bool:
    """Whether plain data fit an annotation; True if the annotation says nothing about plain data."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation in (None, type(None)):
        return value is None
    if _is_union(annotation):
        return any(fits(value, argument) for argument in arguments)
    if origin is typing.Literal:
        return value in arguments
    if annotation in (bool, str):
        return isinstance(value, annotation)
    if annotation in (int, float):
        return isinstance(value, (int, annotation)) and not isinstance(value, bool)
    if (origin or annotation) in _SEQUENCES:
        return isinstance(value, list) and _items_fit(value, origin, arguments)
    if (origin or annotation) in _MAPPINGS:
        return isinstance(value, dict)
    return True


def _items_fit(values: list[Any], origin: Any, arguments: tuple[Any, ...]) -> bool:
    if not arguments or any(isinstance(value, dict) for value in values):
        return True
    if origin is tuple and arguments[-1] is not Ellipsis:
        return len(values) == len(arguments) and all(map(fits, values, arguments))
    return all(fits(value, arguments[0]) for value in values)


def _is_union(annotation: Any) -> bool:
    return typing.get_origin(annotation) in (typing.Union, types.UnionType)


def _type_name(annotation: Any) -> str:
    alternatives = typing.get_args(annotation) if _is_union(annotation) else (annotation,)
    choices = [a for a in alternatives if typing.get_origin(a) is typing.Literal]
    if choices and {*alternatives} <= {*choices, type(None)}:
        return f"one of {', '.join(dict.fromkeys(str(value) for a in choices for value in typing.get_args(a)))}"
    return re.sub(r"\b[a-z_]+\.(?:[a-z_]+\.)*", "", str(annotation))
