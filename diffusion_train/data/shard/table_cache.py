"""Tables of a collection in the cache folder: written whole, checked before use, mapped into memory."""

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
    """Replaces tables that `kept` refuses. False where nothing can be written."""
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
    files = [_META, *(f"{array}.npy" for array in NAMES)]
    return {"folder": name} | {file: zlib.crc32(np.memmap(folder / file, np.uint8, "r").data) for file in files}
