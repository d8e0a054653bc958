"""Extracts the tensors of a pickled checkpoint without running code that the pickle refers to."""

from __future__ import annotations

import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

_ERRORS = (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, TypeError, AttributeError, LookupError)
_NESTED = ("state_dict", "model_state_dict")  # keys under which training checkpoints hold the weights


class Unpickled(NamedTuple):
    """The tensors of a pickle by name, and the classes and functions that were not run."""

    tensors: dict[str, Tensor]
    left_out: list[str]  # classes and functions that the file refers to


def unpickled(path: Path) -> Unpickled:
    """Load all tensors by their names, each with separate memory; objects without effect replace all others.

    Raises ValueError if the file is not a whole torch checkpoint, has no tensors, or cannot be read without its code.
    """
    if broken := _no_checkpoint(path):
        raise ValueError(f"path={path}: {broken}")
    try:
        foreign = torch.serialization.get_unsafe_globals_in_checkpoint(path) if zipfile.is_zipfile(path) else []
        try:
            found = _read(path, foreign, _Inert)
        except pickle.UnpicklingError:
            found = _read(path, foreign, _InertMapping)
    except _ERRORS as error:
        raise ValueError(
            f"path={path}: its tensors cannot be read without running code of the file ({_reason(error)})"
        ) from error
    tensors = dict(_tensors(found))
    if not tensors:
        raise ValueError(f"path={path}: holds no tensors with names")
    return Unpickled({name: value.detach().contiguous().clone() for name, value in tensors.items()}, foreign)


def _no_checkpoint(path: Path) -> str:
    """Return what is wrong with the first and last bytes of a file, or "" if they are those of torch."""
    with path.open("rb") as file:
        head = file.read(12)
    if not head:
        return "the file is empty; download it again"
    if not head.startswith((b"PK", b"\x80")):
        return f"not a torch checkpoint: the file begins with {head!r}; give a .ckpt, .bin, .pt or .pth"
    return "the file is truncated; download it again" if head.startswith(b"PK") and not zipfile.is_zipfile(path) else ""


def _read(path: Path, foreign: Sequence[str], stand_in: type) -> Any:
    mapped = zipfile.is_zipfile(path)  # files of torch before 1.6 are not
    names: list[Any] = [(stand_in, name) for name in foreign]
    with torch.serialization.safe_globals(names):
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)


class _Inert:
    """Accepts any arguments and any state."""

    def __new__(cls, *_: Any, **__: Any) -> Self:
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...


class _InertMapping:
    """Accepts any arguments, and items like a dict; torch only sets items in instances of its allowed classes."""

    def __new__(cls, *_: Any, **__: Any) -> Any:
        return OrderedDict()


def _reason(error: Exception) -> str:
    """Return torch's message without its advice, which is to run the code, and without the stand-in objects."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reasons = [line for line in lines if line.startswith(("Trying to", "Unsupported"))]
    plain = [line for line in lines[:1] if not line.startswith("Weights only load failed")]
    if isinstance(error, (EOFError, LookupError)):
        return "the file is damaged"
    return (reasons or plain or [type(error).__name__])[0].partition(" <")[0]


def _tensors(content: Any) -> Iterator[tuple[str, Tensor]]:
    if not isinstance(content, Mapping):
        return
    inner = next((content[name] for name in _NESTED if isinstance(content.get(name), Mapping)), content)
    for name, value in inner.items():
        if isinstance(name, str) and isinstance(value, Tensor):
            yield name, value
