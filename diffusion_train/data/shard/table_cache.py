"""Tables of a collection in the cache folder: written whole, checked before use, mapped into memory."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Tables = dict[str, NDArray[Any]]
NAMES = ("shard_ends", "members", "starts", "keys", "key_ends", "license", "hashes")
_META, _SUMS = "meta.json", "sums.json"
_CHUNK = 1 << 22


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Of several processes that start at once, one makes the tables and the others take them; where locks fail, each does."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        file = folder.with_suffix(".lock").open("a")
    except OSError:
        yield
        return
    with file:
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def keep(meta: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]], folder: Path) -> bool:
    """False where nothing can be written."""
    try:
        temporary = Path(tempfile.mkdtemp(prefix=".tmp-", dir=folder.parent))
    except OSError:
        return False
    try:
        for name, array in arrays.items():
            np.save(temporary / f"{name}.npy", array, allow_pickle=False)
        (temporary / _META).write_text(json.dumps(meta), "utf-8")
        (temporary / _SUMS).write_text(json.dumps(_sums(temporary, folder.name)))
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(temporary, folder)
    except OSError:
        shutil.rmtree(temporary, ignore_errors=True)
        return False
    return True


def kept(folder: Path) -> dict[str, Any] | None:
    """The meta data of whole tables; None where they are absent or not what was written for this folder."""
    try:
        if json.loads((folder / _SUMS).read_bytes()) != _sums(folder, folder.name):
            return None
        meta: dict[str, Any] = json.loads((folder / _META).read_bytes())
        return meta
    except (OSError, ValueError):
        return None


def tables(folder: Path) -> Tables:
    """As plain arrays: a memmap, of which they are views, takes several times as long to look something up."""
    maps = {name: np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in NAMES}
    return {name: np.asarray(array) for name, array in maps.items()}


def _sums(folder: Path, name: str) -> dict[str, Any]:
    """A checksum of each file: an offset changed by one bit would pair an image with the caption of another."""
    return {"folder": name} | {file: _crc(folder / file) for file in (_META, *(f"{array}.npy" for array in NAMES))}


def _crc(path: Path) -> int:
    crc = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            crc = zlib.crc32(chunk, crc)
    return crc
