"""The tables of a catalog in the cache folder: written atomically, verified before use, and mapped into memory."""

from __future__ import annotations

import json
import shutil
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffusion_train.utils.files import atomic_folder

Tables = dict[str, NDArray[Any]]
NAMES = ("shard_ends", "members", "starts", "keys", "key_ends", "license", "hashes")
_META, _SUMS = "meta.json", "sums.json"


def save_tables(meta: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]], folder: Path) -> bool:
    """Write tables, replacing those that `load_tables` rejects. Return False if they cannot be written."""
    try:
        with atomic_folder(folder) as temporary:
            for name, array in arrays.items():
                np.save(temporary / f"{name}.npy", array, allow_pickle=False)
            (temporary / _META).write_text(json.dumps(meta), "utf-8")
            (temporary / _SUMS).write_text(json.dumps(_sums(temporary, folder.name)))
            shutil.rmtree(folder, ignore_errors=True)
    except OSError:
        return False
    return True


def load_tables(folder: Path) -> dict[str, Any] | None:
    """Return the metadata of complete tables; None if they are missing, damaged or written for another folder."""
    try:
        if json.loads((folder / _SUMS).read_bytes()) != _sums(folder, folder.name):
            return None
        meta: dict[str, Any] = json.loads((folder / _META).read_bytes())
        return meta
    except (OSError, ValueError):
        return None


def tables(folder: Path) -> Tables:
    """Return the tables as plain arrays, which are views of memory maps: a np.memmap itself is several times slower."""
    maps = {name: np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in NAMES}
    return {name: np.asarray(array) for name, array in maps.items()}


def _sums(folder: Path, name: str) -> dict[str, Any]:
    """Return a checksum of each file: one wrong bit in an offset could pair an image with another one's caption."""
    files = [_META, *(f"{array}.npy" for array in NAMES)]
    return {"folder": name} | {file: zlib.crc32(np.memmap(folder / file, np.uint8, "r").data) for file in files}
