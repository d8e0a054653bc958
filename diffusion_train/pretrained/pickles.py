"""The tensors of a pickled checkpoint, without running what a pickle may ask for."""

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
_NESTED = ("state_dict", "model_state_dict")  # where checkpoints of training keep the weights


class Unpickled(NamedTuple):
    tensors: dict[str, Tensor]
    left_out: list[str]  # classes and functions of which the file asked to make something


def unpickled(path: Path) -> Unpickled:
    """All tensors by their names, each with memory of its own. In place of all else stand objects that do nothing.

    ValueError for a file that is no whole checkpoint of torch, has no tensors, or asks for more than that.
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
            f"path={path}: not a checkpoint whose tensors can be had without running its code ({_reason(error)})"
        ) from error
    tensors = dict(_tensors(found))
    if not tensors:
        raise ValueError(f"path={path}: holds no tensors by their names")
    return Unpickled({name: value.detach().contiguous().clone() for name, value in tensors.items()}, foreign)


def _no_checkpoint(path: Path) -> str:
    """What a file is that has not the beginning or end of torch's; "" where it has."""
    with path.open("rb") as file:
        head = file.read(12)
    if not head:
        return "is empty; fetch it again"
    if not head.startswith((b"PK", b"\x80")):
        return f"no checkpoint of torch, for it begins with {head!r}; give a .ckpt, .bin, .pt or .pth"
    return "is cut off; fetch it again" if head.startswith(b"PK") and not zipfile.is_zipfile(path) else ""


def _read(path: Path, foreign: Sequence[str], stand_in: type) -> Any:
    mapped = zipfile.is_zipfile(path)  # not so before torch 1.6
    names: list[Any] = [(stand_in, name) for name in foreign]
    with torch.serialization.safe_globals(names):
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)


class _Inert:
    """Takes any arguments and any state."""

    def __new__(cls, *_: Any, **__: Any) -> Self:
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...


class _InertMapping:
    """Takes any arguments, and items as those of a dict: torch's reader sets them in no class but its own."""

    def __new__(cls, *_: Any, **__: Any) -> Any:
        return OrderedDict()


def _reason(error: Exception) -> str:
    """Without torch's advice, which is to run the code, and without the objects that stand for what it names."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reasons = [line for line in lines if line.startswith(("Trying to", "Unsupported"))]
    plain = [line for line in lines[:1] if not line.startswith("Weights only load failed")]
    if isinstance(error, (EOFError, LookupError)):
        return "it is damaged"
    return (reasons or plain or [type(error).__name__])[0].partition(" <")[0]


def _tensors(content: Any) -> Iterator[tuple[str, Tensor]]:
    if not isinstance(content, Mapping):
        return
    inner = next((content[name] for name in _NESTED if isinstance(content.get(name), Mapping)), content)
    for name, value in inner.items():
        if isinstance(name, str) and isinstance(value, Tensor):
            yield name, value
