"""Make a Catalog of shards, from tables in the cache folder or from the indexes of all shards."""

from __future__ import annotations

import hashlib
import multiprocessing
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from diffusion_train.data.shard.catalog import Array, Catalog, reopened
from diffusion_train.data.shard.index import ShardIndex
from diffusion_train.data.shard.index_file import FORMAT, keep_index, load_index
from diffusion_train.data.shard.patterns import Patterns, find_shards
from diffusion_train.data.shard.problem import DataError, Problem
from diffusion_train.data.shard.scan import build_index
from diffusion_train.data.shard.table_cache import load_tables, save_tables
from diffusion_train.data.storage.base import Stat, Storage, StorageError
from diffusion_train.data.storage.by_scheme import StorageByScheme
from diffusion_train.data.storage.remedy import remedy, spelling
from diffusion_train.data.storage.urls import is_local
from diffusion_train.utils.files import cache_folder
from diffusion_train.utils.lock import wait_for_lock
from diffusion_train.utils.process.workers import Workers, available
from diffusion_train.utils.redact import redact_url

Shards = Patterns | Mapping[str, Patterns]  # or several sources by name
_PROBES = 32  # shards whose state is requested at once
_SMALL = 1 << 25  # bytes; for less, starting other processes takes longer than reading


def open_shards(shards: Shards, storage: Storage | None = None) -> Catalog:
    """Return the catalog of all shards, with faults inside shards in its `problems`.

    Raises one DataError with all shards that cannot be found or read, or if there is no sample at all.
    """
    _refuse_to_be_imported()
    storage = storage or StorageByScheme()
    sources: dict[str, int] = {}
    urls: list[str] = []
    problems: list[Problem] = []
    for name, patterns in (shards if isinstance(shards, Mapping) else {"shards": shards}).items():
        found, faults = find_shards(patterns)
        sources[name], urls, problems = len(found), urls + found, problems + faults
    with ThreadPoolExecutor(_PROBES) as pool:  # first, so that wrong URLs and missing permissions are reported at once
        states = list(pool.map(partial(_stat, storage), urls))
    stats = [state for state in states if isinstance(state, Stat)]
    if problems or len(stats) < len(urls):
        raise _unreadable(problems, zip(urls, states, strict=True))
    identity = repr(
        (FORMAT, [(url.split("?")[0], stat.size, stat.version) for url, stat in zip(urls, stats, strict=True)])
    )
    folder = cache_folder() / "collection" / hashlib.sha256(identity.encode()).hexdigest()[:32]
    versions = [stat.version for stat in stats]
    with wait_for_lock(folder.with_suffix(".lock")):  # if several processes start together, one makes the tables
        meta = load_tables(folder)
        if meta is None:
            try:
                indexes = _indexes(urls, stats, storage)
            except StorageError as error:  # it was available above, but is not any more
                raise DataError(f"data.shards cannot be indexed: {error}") from error
            made, arrays = _joined(indexes)
            if not len(arrays["hashes"]):
                raise DataError.listing([problem for index in indexes for problem in index.problems])
            meta = load_tables(folder) if save_tables(made, arrays, folder) else None
            if meta is None:
                return Catalog(urls, versions, sources, made, arrays)
        return reopened(urls, versions, sources, meta, {}, folder)


def _stat(storage: Storage, url: str) -> Stat | StorageError:
    try:
        return storage.stat(url)
    except StorageError as error:
        return error


def _unreadable(problems: Sequence[Problem], states: Iterable[tuple[str, Stat | StorageError]]) -> DataError:
    """Return the error for shards that are missing, denied or unreachable, with what to do about it."""
    faults = [(url, error) for url, error in states if isinstance(error, StorageError)]
    details = [(redact_url(url), str(error)) for url, error in faults]
    unreadable = [Problem("unreadable-shard", url, text.removeprefix(f"{url}: ")) for url, text in details]
    absent = [spelling()] if any(problem.rule == "missing-shard" for problem in problems) else []
    error = DataError.listing([*problems, *unreadable])
    for note in dict.fromkeys([*absent, *(remedy(*fault) for fault in faults)]):
        error.add_note(note)
    return error


def _indexes(urls: Sequence[str], stats: Sequence[Stat], storage: Storage) -> list[ShardIndex]:
    """Return the indexes in order; shards without a matching index are read, on all cores."""
    with ThreadPoolExecutor(_PROBES) as pool:
        found = list(pool.map(lambda url, stat: load_index(url, stat, storage), urls, stats))
    missing = {url: stat.size for url, stat, index in zip(urls, stats, found, strict=True) if index is None}
    alone = len(missing) < 4 or (sum(missing.values()) < _SMALL and all(map(is_local, missing)))
    with Workers(0 if alone else min(available(), len(missing))) as workers:
        built = workers.map(partial(_build_one, storage=storage), missing)
        hidden = None if missing else True
        bar = tqdm(built, "Indexing shards", len(missing), unit="shard", mininterval=0.5, disable=hidden)
        made = dict(zip(missing, bar, strict=True))
    return [made[url] if index is None else index for url, index in zip(urls, found, strict=True)]


def _build_one(url: str, storage: Storage) -> ShardIndex:
    return keep_index(build_index(url, storage))


def _joined(indexes: Sequence[ShardIndex]) -> tuple[dict[str, Any], dict[str, Array]]:
    """Join the tables of all shards into one; the indices of each shard's table are renumbered."""
    extensions = _names(index.extensions for index in indexes)
    licenses = _names(index.licenses for index in indexes)
    counts = [len(index) for index in indexes]
    members = np.concatenate([index.members for index in indexes])
    members["ext"] = np.concatenate(
        [_renumbered(index.members["ext"], index.extensions, extensions) for index in indexes]
    )
    lengths = [np.diff(index.starts) for index in indexes]
    arrays: dict[str, Array] = {
        "shard_ends": np.cumsum(counts, dtype=np.int64),
        "members": members,
        "starts": np.concatenate([[0], np.cumsum(np.concatenate(lengths), dtype=np.int64)]),
        "keys": np.concatenate([index.keys for index in indexes]),
        "key_ends": np.cumsum(np.concatenate([np.diff(index.key_ends, prepend=0) for index in indexes])),
        "license": np.concatenate([_renumbered(index.license, index.licenses, licenses) for index in indexes]),
        "hashes": np.array([Catalog.hash(index.key(i)) for index in indexes for i in range(len(index))], np.uint64),
    }
    meta = {
        "extensions": list(extensions),
        "licenses": list(licenses),
        "digests": [index.digest for index in indexes],
        "num_ignored": sum(index.num_ignored for index in indexes),
        "problems": [[shard, vars(problem)] for shard, index in enumerate(indexes) for problem in index.problems],
    }
    return meta, arrays


def _names(lists: Iterable[Sequence[str]]) -> dict[str, int]:
    return {name: number for number, name in enumerate(dict.fromkeys(name for names in lists for name in names))}


def _renumbered(values: Array, own: Sequence[str], common: Mapping[str, int]) -> NDArray[np.int32]:
    table = np.array([*(common[name] for name in own), -1], np.int32)  # -1 stays -1
    return table[values]


def _refuse_to_be_imported() -> None:
    """Raises RuntimeError in a process that reads shards and imports the user's script: it would wait forever."""
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise RuntimeError(
            'several processes read the shards and import your script: put its code under `if __name__ == "__main__":`'
        )
