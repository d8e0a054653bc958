"""Save and load the index of a shard, which is made once and kept beside the shard."""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from diffusion_train.data.shard.index import ShardIndex
from diffusion_train.data.shard.problem import Problem
from diffusion_train.data.shard.scan import build_index
from diffusion_train.data.storage.base import Stat, Storage
from diffusion_train.data.storage.by_scheme import StorageByScheme
from diffusion_train.data.storage.shard_file import read_whole
from diffusion_train.data.storage.urls import is_local, local_path
from diffusion_train.utils.files import atomic_file, cache_folder
from diffusion_train.utils.redact import redact_url

FORMAT = 5
SUFFIX = ".index.npz"
_MAX_SIDECAR = 1 << 32
_ARRAYS = ("keys", "key_ends", "starts", "members", "license")


def open_index(url: str | os.PathLike[str], storage: Storage | None = None) -> ShardIndex:
    """Return the saved index of a shard if it still matches, else make and save a new one. Raises StorageError."""
    url, storage = os.fspath(url), storage or StorageByScheme()
    stat = storage.stat(url)
    index = load_index(url, stat, storage)
    return keep_index(build_index(url, storage)) if index is None else index


def sidecars(url: str) -> list[str]:
    """Return where a shard's index may be: beside it, or in the cache folder. The first usable location counts."""
    plain = os.path.abspath(local_path(url)) if is_local(url) else url.split("?")[0]
    name = hashlib.sha256(plain.encode()).hexdigest()
    beside = plain + SUFFIX + url[len(plain) :] if not is_local(url) else plain + SUFFIX
    return [beside, str(cache_folder() / "index" / f"{name}.npz")]


def load_index(url: str, stat: Stat, storage: Storage) -> ShardIndex | None:
    """Return a saved index that matches the shard's present state, or None.

    An index beside a remote shard, which was uploaded with it, does not know the store's version and is matched by
    size; checksums are compared when samples are read.
    """
    indexes = (_loaded(path, url, stat, storage) for path in sidecars(url))
    return next((index for index in indexes if index is not None), None)


def _loaded(path: str, url: str, stat: Stat, storage: Storage) -> ShardIndex | None:
    data = Path(path).read_bytes() if is_local(path) and Path(path).is_file() else None
    if not is_local(path):
        data = read_whole(storage, path, _MAX_SIDECAR)
    if data is None:
        return None
    try:
        if zipfile.ZipFile(BytesIO(data)).testzip():
            return None  # damaged; numpy alone would read a part of an array
        with np.load(BytesIO(data), allow_pickle=False) as file:
            arrays = {name: file[name] for name in _ARRAYS}
            meta = json.loads(file["meta"].tobytes())
        fits = meta.pop("format") == FORMAT and meta["size"] == stat.size
        if not fits or (is_local(path) and meta["version"] != stat.version):
            return None
        problems = [Problem(**{**facts, "shard": redact_url(url)}) for facts in meta.pop("problems")]
        return ShardIndex(**{**meta, "url": url, "version": stat.version, "problems": problems}, **arrays)
    except Exception:  # noqa: BLE001 (damage makes zipfile and numpy raise almost anything)
        return None  # it can be made again from the shard


def keep_index(index: ShardIndex) -> ShardIndex:
    """Save an index beside the shard, else in the cache folder.

    If neither is writable, the next start makes it again.
    """
    names = ("size", "version", "digest", "num_ignored", "extensions", "licenses")
    facts: dict[str, Any] = {"format": FORMAT} | {name: getattr(index, name) for name in names}
    facts["problems"] = [vars(problem) for problem in index.problems]
    meta = np.frombuffer(json.dumps(facts).encode(), np.uint8)
    for path in filter(is_local, sidecars(index.url)):
        with suppress(OSError):
            with atomic_file(Path(path)) as file:
                np.savez(file, meta=meta, **{name: getattr(index, name) for name in _ARRAYS})
            break
    return index
