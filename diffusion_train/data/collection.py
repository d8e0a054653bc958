"""All shards of a data set as one sequence of samples, mapped into memory from the cache folder."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from diffusion_train.data.index import FORMAT, ShardIndex, build_index, keep_index, load_index
from diffusion_train.data.kept import alone, keep, kept, tables
from diffusion_train.data.patterns import Patterns, find_shards
from diffusion_train.data.permutation import mix
from diffusion_train.data.problem import DataError, Problem
from diffusion_train.data.storage.base import Range, Stat, Storage, StorageError
from diffusion_train.data.storage.by_scheme import StorageByScheme
from diffusion_train.data.storage.remedy import remedy, spelling
from diffusion_train.utils.cache import cache_folder
from diffusion_train.utils.redact import redact_url

Shards = Patterns | Mapping[str, Patterns]  # or several sources by name
Array = NDArray[Any]
Numbers = Sequence[int] | NDArray[np.int64]
_PROBES = 32  # shards asked for at once
_CHUNK = 1 << 20  # samples named at once


@dataclass(frozen=True, eq=False)
class Collection:
    """Samples 0..n-1 over the shards in their order; the members of sample i are `members[starts[i]:starts[i + 1]]`.

    `sources` says how many shards each source has, in the same order. `arrays` may be maps of files in `folder`, which processes of one machine share.
    """

    urls: list[str]
    versions: list[str]
    sources: Mapping[str, int]
    meta: Mapping[str, Any]
    arrays: Mapping[str, Array]
    folder: Path | None = None

    def __len__(self) -> int:
        return len(self.arrays["hashes"])

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        arrays = {} if self.folder else self.arrays
        return _reopened, (self.urls, self.versions, self.sources, self.meta, arrays, self.folder)

    @property
    def problems(self) -> list[Problem]:
        """What was left out of the shards."""
        facts = self.meta["problems"]
        return [Problem(**{**one, "shard": redact_url(self.urls[shard])}) for shard, one in facts]

    @property
    def fingerprint(self) -> str:
        """A hash of what the shards hold, whatever they are called and wherever they lie."""
        return hashlib.sha256("".join(self.meta["digests"]).encode()).hexdigest()

    def source_ends(self) -> dict[str, int]:
        """The number of the first sample after each source."""
        ends = np.concatenate([[0], self.arrays["shard_ends"]])
        return dict(zip(self.sources, ends[np.cumsum(list(self.sources.values()))].tolist(), strict=True))

    def shard(self, sample: int) -> int:
        return int(np.searchsorted(self.arrays["shard_ends"], sample, side="right"))

    @staticmethod
    def hash(key: str) -> int:
        """The number in `arrays["hashes"]` of samples of this key."""
        return int.from_bytes(hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")

    def key(self, sample: int) -> str:
        return self.keys([sample])[0]

    def keys(self, samples: Numbers) -> list[str]:
        chosen, ends, text = np.asarray(samples, np.int64), self.arrays["key_ends"], self.arrays["keys"].data
        starts = np.where(chosen > 0, ends[chosen - 1], 0).tolist()
        places = zip(starts, ends[chosen].tolist(), strict=True)
        return [str(text[start:end], "utf-8", "surrogatepass") for start, end in places]

    def members(self, sample: int) -> dict[str, tuple[Range, int]]:
        """{extension: (where it lies, its checksum)}"""
        return self.members_of([sample])[0]

    def members_of(self, samples: Numbers, names: Container[str] | None = None) -> list[dict[str, tuple[Range, int]]]:
        """The members of each sample, of these names alone where given. Looked up all at once: a batch costs little more than one."""
        chosen = np.asarray(samples, np.int64)
        rows, ends = self._rows(chosen)
        extensions = [name if names is None or name in names else None for name in self.meta["extensions"]]
        columns = [rows[name].tolist() for name in ("ext", "offset", "size", "crc")]
        flat = list(zip(*columns, strict=True))
        shards = np.searchsorted(self.arrays["shard_ends"], chosen, side="right").tolist()
        found = []
        for shard, start, end in zip(shards, [0, *ends.tolist()], ends.tolist(), strict=False):
            url, version = self.urls[shard], self.versions[shard]
            found.append(
                {
                    name: (Range(url, version, at, size), crc)
                    for ext, at, size, crc in flat[start:end]
                    if (name := extensions[ext]) is not None
                }
            )
        return found

    def _rows(self, chosen: NDArray[np.int64]) -> tuple[Array, NDArray[np.int64]]:
        """The members of the samples, one after the other, and where those of each end."""
        starts = self.arrays["starts"]
        first, counts = starts[chosen], starts[chosen + 1] - starts[chosen]
        ends = np.cumsum(counts)
        return np.asarray(self.arrays["members"])[
            np.repeat(first - ends + counts, counts) + np.arange(counts.sum())
        ], ends

    def names(self, samples: Numbers) -> NDArray[np.uint64]:
        """A number for each of the samples that stands for its key and for what its members hold, wherever they lie.

        Among n samples two different ones share a number with probability n^2 / 2^65: 3e-6 at ten million.
        """
        kinds = np.array([self.hash(name) for name in self.meta["extensions"]], np.uint64)
        return np.concatenate(
            [
                self._names_of(chunk, kinds)
                for chunk in np.split(np.asarray(samples, np.int64), range(_CHUNK, len(samples), _CHUNK))
            ]
        )

    def _names_of(self, chosen: NDArray[np.int64], kinds: NDArray[np.uint64]) -> NDArray[np.uint64]:
        rows, ends = self._rows(chosen)
        content = rows["crc"].astype(np.uint64) << np.uint64(32) ^ rows["size"].astype(np.uint64)
        held = mix(kinds[rows["ext"]] ^ mix(content))
        return mix(self.arrays["hashes"][chosen] + np.add.reduceat(held, np.concatenate([[0], ends[:-1]])))

    def first_rows(self, extensions: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """How many members of these extensions each sample has (n,), and the row of its first one or -1 (n,)."""
        wanted = [number for number, name in enumerate(self.meta["extensions"]) if name in extensions]
        hit = np.isin(self.arrays["members"]["ext"], wanted)
        counts = np.add.reduceat(hit, self.arrays["starts"][:-1], dtype=np.int64)
        first = np.flatnonzero(hit)
        before = np.concatenate([[0], np.cumsum(counts)[:-1]])
        rows = np.full(len(self), -1, np.int64)
        rows[counts > 0] = first[before[counts > 0]]
        return counts, rows

    def licenses(self) -> tuple[list[str], NDArray[np.int32]]:
        """Names, and each sample's place among them (n,), -1 where it names none."""
        return self.meta["licenses"], self.arrays["license"]


def open_shards(shards: Shards, storage: Storage | None = None) -> Collection:
    """Raises one DataError for all that cannot be found or read; faults inside shards are in `problems`."""
    _refuse_to_be_imported()
    storage = storage or StorageByScheme()
    sources: dict[str, int] = {}
    urls: list[str] = []
    problems: list[Problem] = []
    for name, patterns in (shards if isinstance(shards, Mapping) else {"shards": shards}).items():
        found, faults = find_shards(patterns)
        sources[name], urls, problems = len(found), urls + found, problems + faults
    answers = _probe(urls, storage)
    stats = [answer for answer in answers if isinstance(answer, Stat)]
    if problems or len(stats) < len(urls):
        raise _unreadable(problems, zip(urls, answers, strict=True))
    identity = repr(
        (FORMAT, [(url.split("?")[0], stat.size, stat.version) for url, stat in zip(urls, stats, strict=True)])
    )
    folder = cache_folder() / "collection" / hashlib.sha256(identity.encode()).hexdigest()[:32]
    versions = [stat.version for stat in stats]
    with alone(folder):
        if whole := _kept(urls, versions, sources, folder):
            return whole
        try:
            indexes = list(_indexes(urls, stats, storage))
        except StorageError as error:  # read since the probe, and now out of reach
            raise DataError(f"data.shards cannot be indexed: {error}") from error
        meta, arrays = _joined(indexes)
        if not len(arrays["hashes"]):
            raise DataError.listing([problem for index in indexes for problem in index.problems])
        written = keep(meta, arrays, folder)
    return (written and _kept(urls, versions, sources, folder)) or Collection(urls, versions, sources, meta, arrays)


def _probe(urls: Sequence[str], storage: Storage) -> list[Stat | StorageError]:
    """Size and version of every shard; the first thing a run does, so that a wrong address or right is told at once."""
    with ThreadPoolExecutor(min(_PROBES, max(1, len(urls)))) as pool:
        return list(pool.map(lambda url: _stat(url, storage), urls))


def _stat(url: str, storage: Storage) -> Stat | StorageError:
    try:
        return storage.stat(url)
    except StorageError as error:
        return error


def _unreadable(problems: Sequence[Problem], answers: Iterable[tuple[str, Stat | StorageError]]) -> DataError:
    """What is absent, denied or out of reach, and what to do about it."""
    faults = [(url, error) for url, error in answers if isinstance(error, StorageError)]
    details = [(redact_url(url), str(error)) for url, error in faults]
    told = [Problem("unreadable-shard", url, text.removeprefix(f"{url}: ")) for url, text in details]
    absent = [spelling()] if any(problem.rule == "missing-shard" for problem in problems) else []
    error = DataError.listing([*problems, *told])
    for note in dict.fromkeys([*absent, *(remedy(*fault) for fault in faults)]):
        error.add_note(note)
    return error


def _indexes(urls: Sequence[str], stats: Sequence[Stat], storage: Storage) -> Iterator[ShardIndex]:
    """In order; shards without an index that fits are read by all cores at once."""
    with ThreadPoolExecutor(min(_PROBES, max(1, len(urls)))) as pool:
        kept = list(pool.map(lambda url, stat: load_index(url, stat, storage), urls, stats))
    missing = [number for number, index in enumerate(kept) if index is None]
    for number, index in zip(missing, _build([urls[number] for number in missing], storage), strict=True):
        kept[number] = index
    return (index for index in kept if index is not None)


def _build(urls: Sequence[str], storage: Storage) -> list[ShardIndex]:
    bar = tqdm(total=len(urls), desc="Indexing shards", unit="shard", mininterval=0.5, disable=None if urls else True)
    if len(urls) < 4:
        built = []
        for url in urls:
            built.append(keep_index(build_index(url, storage)))
            bar.update()
        return built
    context = multiprocessing.get_context(
        "spawn"
    )  # forking beside the threads of torch and of a store's client can hang
    with ProcessPoolExecutor(min(os.cpu_count() or 1, len(urls)), context) as pool, bar:
        futures: list[Future[ShardIndex]] = [pool.submit(_build_one, url, storage) for url in urls]
        for _ in as_completed(futures):
            bar.update()
        return [future.result() for future in futures]


def _build_one(url: str, storage: Storage) -> ShardIndex:
    return keep_index(build_index(url, storage))


def _joined(indexes: Sequence[ShardIndex]) -> tuple[dict[str, Any], dict[str, Array]]:
    """One table of samples: places, names and offsets of each shard's own tables renumbered."""
    extensions = _names(index.extensions for index in indexes)
    licenses = _names(index.licenses for index in indexes)
    counts = [len(index) for index in indexes]
    members = [_renumbered(index.members, "ext", index.extensions, extensions) for index in indexes]
    lengths = [np.diff(index.starts) for index in indexes]
    arrays: dict[str, Array] = {
        "shard_ends": np.cumsum(counts, dtype=np.int64),
        "members": np.concatenate(members),
        "starts": np.concatenate([[0], np.cumsum(np.concatenate(lengths), dtype=np.int64)]),
        "keys": np.concatenate([index.keys for index in indexes]),
        "key_ends": np.cumsum(np.concatenate([np.diff(index.key_ends, prepend=0) for index in indexes])),
        "license": np.concatenate([_places(index.license, index.licenses, licenses) for index in indexes]),
        "hashes": np.array([Collection.hash(index.key(i)) for index in indexes for i in range(len(index))], np.uint64),
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


def _renumbered(rows: Array, column: str, own: Sequence[str], common: Mapping[str, int]) -> Array:
    rows = rows.copy()
    rows[column] = _places(rows[column], own, common)
    return rows


def _places(values: Array, own: Sequence[str], common: Mapping[str, int]) -> NDArray[np.int32]:
    table = np.array([*(common[name] for name in own), -1], np.int32)  # -1 stays -1
    return table[values]


def _refuse_to_be_imported() -> None:
    """A process that reads shards for this one imports the user's script, and would wait for what this one holds."""
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise RuntimeError(
            'several processes read the shards: put what your script does under `if __name__ == "__main__":`'
        )


def _kept(urls: list[str], versions: list[str], sources: Mapping[str, int], folder: Path) -> Collection | None:
    meta = kept(folder)
    return None if meta is None else _reopened(urls, versions, sources, meta, {}, folder)


def _reopened(
    urls: list[str], versions: list[str], sources: Mapping[str, int], meta: Any, arrays: Any, folder: Path | None
) -> Collection:
    return Collection(urls, versions, sources, meta, tables(folder) if folder else arrays, folder)
