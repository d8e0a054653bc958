"""Texts in the JSON beside an image, which is untrusted."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

from diffusion_train.data.caption.fault import CaptionError, decode

Path = tuple[str, ...]
_KINDS = {dict: "an object", bool: "true or false"}


def parse_path(field: str, key: str) -> Path:
    """`a.b` -> ("a", "b"). ValueError that names the config's `key`."""
    path = tuple(field.split("."))
    if not all(path):
        raise ValueError(f"{key}={field}: names joined by single dots, as in annotation.title")
    return path


def field_texts(data: bytes, path: Path) -> list[str]:
    """The texts at a path of a JSON document; a list on the way stands for each of its items, null for nothing.

    Numbers are taken as they are written. Raises CaptionError.
    """
    found = _follow(_parse(data), path)
    for value in found:
        if not isinstance(value, str):
            raise CaptionError(f"{'.'.join(path)} is {_KINDS[type(value)]}, not text")
    return found


@lru_cache(maxsize=4)  # a caption and each field of its template are looked up one after the other
def _parse(data: bytes) -> Any:
    text = decode(data)
    try:
        # str, because an int of many digits takes Python long to read or is refused
        return json.loads(text, parse_int=str, parse_float=str, parse_constant=str)
    except RecursionError:
        raise CaptionError("JSON is nested too deeply") from None
    except ValueError as error:
        raise CaptionError(f"malformed JSON: {error}") from None


def _follow(value: Any, path: Path) -> list[Any]:
    values = _flat([value])
    for name in path:
        values = _flat([item[name] for item in values if isinstance(item, dict) and name in item])
    return [value for value in values if value is not None]


def _flat(values: list[Any]) -> list[Any]:
    """Lists replaced by their items, however deep: a loop, for recursion has its limits."""
    flat, left = [], values[::-1]
    while left:
        value = left.pop()
        if isinstance(value, list):
            left += value[::-1]
        else:
            flat.append(value)
    return flat
