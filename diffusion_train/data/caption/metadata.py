"""Read texts from the JSON of a sample, which is untrusted."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

from diffusion_train.data.caption.fault import CaptionError, decode

Path = tuple[str, ...]
_KINDS = {dict: "an object", bool: "true or false"}


def parse_path(field: str, key: str) -> Path:
    """Return the path ("a", "b") of a field `a.b`.

    Raises ValueError, which names the setting `key`, for empty names.
    """
    path = tuple(field.split("."))
    if not all(path):
        raise ValueError(f"{key}={field}: must be names joined by single dots, such as annotation.title")
    return path


class _Fraction(str):
    """A number that is not whole, as it is written."""


def field_texts(data: bytes, path: Path, any_number: bool = False) -> list[str]:
    """Return the texts at a path of a JSON document; lists on the path contribute all items, null and NaN are skipped.

    Whole numbers become text as they are written, others only with `any_number`. Raises CaptionError.
    """
    found = _follow(_parse(data), path)
    for value in found:
        if isinstance(value, _Fraction) and not any_number:
            raise CaptionError(f"{'.'.join(path)} must be text or a whole number, got {value}")
        if not isinstance(value, str):
            raise CaptionError(f"{'.'.join(path)} must be text, got {_KINDS[type(value)]}")
    return found


@lru_cache(maxsize=4)  # a caption and the fields of its template are read from the same document
def _parse(data: bytes) -> Any:
    text = decode(data)
    try:
        # str, because Python is slow for integers with many digits, or rejects them
        return json.loads(text, parse_int=str, parse_float=_Fraction, parse_constant=_constant)
    except RecursionError:
        raise CaptionError("JSON is nested too deeply") from None
    except ValueError as error:
        raise CaptionError(f"malformed JSON: {error}") from None


def _constant(name: str) -> str | None:
    return None if name == "NaN" else _Fraction(name)


def _follow(value: Any, path: Path) -> list[Any]:
    values = _flat([value])
    for name in path:
        values = _flat([item[name] for item in values if isinstance(item, dict) and name in item])
    return [value for value in values if value is not None]


def _flat(values: list[Any]) -> list[Any]:
    """Flatten nested lists; with a loop, because the depth of recursion is limited."""
    flat, left = [], values[::-1]
    while left:
        value = left.pop()
        if isinstance(value, list):
            left += value[::-1]
        else:
            flat.append(value)
    return flat
