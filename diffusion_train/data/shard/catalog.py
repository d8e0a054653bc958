"""The catalog: all shards of a data set as one sequence of samples, mapped into memory from the cache folder."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffusion_train.data.order.permutation import mix
from diffusion_train.data.shard.index import Traits
from diffusion_train.data.shard.problem import Problem
from diffusion_train.data.shard.table_cache import tables
from diffusion_train.data.storage.base import Range
from diffusion_train.utils.redact import redact_url

Array = NDArray[Any]
Numbers = Sequence[int] | NDArray[np.int64]
Located = dict[str, tuple[Range, int]]  # member -> its byte range and its checksum
_CHUNK = 1 << 20  # samples hashed at once
_range = partial(tuple.__new__, Range)  # like `Range._make`, but faster


@dataclass(frozen=True, eq=False)
class Catalog:
    """Samples 0..n-1 of all shards, in order; the members of sample i are `members[starts[i]:starts[i + 1]]`.

    `sources` are the numbers of shards of each source, in the same order. `arrays` may be maps of files in `folder`,
    which processes of one machine share.
    """

    urls: list[str]
    versions: list[str]
    sources: Mapping[str, int]
    meta: Mapping[str, Any]
    arrays: Mapping[str, Array]
    folder: Path | None = None

    def __len__(self) -> int:
        return len(self.arrays["hashes"])

    def __reduce__(self) -> tuple[Callable[..., Catalog], tuple[object, ...]]:
        arrays = {} if self.folder else self.arrays
        return reopened, (self.urls, self.versions, self.sources, self.meta, arrays, self.folder)

    @property
    def problems(self) -> list[Problem]:
        """The faults that were found in the shards and left out."""
        facts = self.meta["problems"]
        return [Problem(**{**one, "shard": redact_url(self.urls[shard])}) for shard, one in facts]

    @property
    def fingerprint(self) -> str:
        """A hash of the contents of the shards, independent of their names and locations."""
        return hashlib.sha256("".join(self.meta["digests"]).encode()).hexdigest()

    def source_ends(self) -> dict[str, int]:
        """Return source -> number of the first sample after it."""
        ends = np.concatenate([[0], self.arrays["shard_ends"]])
        return dict(zip(self.sources, ends[np.cumsum(list(self.sources.values()))].tolist(), strict=True))

    def shard(self, sample: int) -> int:
        return int(np.searchsorted(self.arrays["shard_ends"], sample, side="right"))

    def printable_shard(self, sample: int) -> str:
        """Return the URL of a sample's shard without secrets, as in Problem."""
        return redact_url(self.urls[self.shard(sample)])

    @staticmethod
    def hash(key: str) -> int:
        """Return the hash of a key, as in `arrays["hashes"]`."""
        return int.from_bytes(hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")

    def key(self, sample: int) -> str:
        return self.keys([sample])[0]

    def keys(self, samples: Numbers) -> list[str]:
        """Return the keys of samples."""
        chosen, ends, text = np.asarray(samples, np.int64), self.arrays["key_ends"], self.arrays["keys"].data
        starts = np.where(chosen > 0, ends[chosen - 1], 0).tolist()
        spans = zip(starts, ends[chosen].tolist(), strict=True)
        return [str(text[start:end], "utf-8", "surrogatepass") for start, end in spans]

    def members_of(self, samples: Numbers, names: Container[str] | None = None) -> list[Located]:
        """Return the members of each sample, or those with these names. A batch takes little longer than one sample."""
        chosen = np.asarray(samples, np.int64)
        rows, counts = self._rows(chosen)
        extensions = [name if names is None or name in names else None for name in self.meta["extensions"]]
        facts = zip(*(rows[name].tolist() for name in ("ext", "offset", "size", "crc")), strict=True)
        shards = np.searchsorted(self.arrays["shard_ends"], chosen, side="right")
        found = []
        for shard, count in zip(shards.tolist(), counts.tolist(), strict=True):
            url, version, members = self.urls[shard], self.versions[shard], {}
            for ext, offset, size, crc in islice(facts, count):
                if (name := extensions[ext]) is not None:
                    members[name] = _range((url, version, offset, size)), crc
            found.append(members)
        return found

    def identities(self, samples: Numbers, extensions: Container[str]) -> list[str]:
        """Return a hash of the contents of each sample's first member with these extensions; "" if it has none.

        An image whose traits change its pixels has them in the hash.
        """
        rows, counts = self._rows(np.asarray(samples, np.int64))
        wanted = {number for number, name in enumerate(self.meta["extensions"]) if name in extensions}
        changed = (rows["traits"] & (Traits.CONVERTED | Traits.TURNED)).tolist()
        members = zip(rows["ext"].tolist(), rows["digest"].tolist(), changed, strict=True)
        samples_members = (list(islice(members, count)) for count in counts.tolist())
        firsts = (next((its for its in some if its[0] in wanted), None) for some in samples_members)
        return ["" if its is None else its[1].hex() + f"+{its[2]}" * (its[2] > 0) for its in firsts]

    def _rows(self, chosen: NDArray[np.int64]) -> tuple[Array, NDArray[np.int64]]:
        """Return the members of the samples, one after the other, and how many each sample has (m,)."""
        starts = self.arrays["starts"]
        first, counts = starts[chosen], starts[chosen + 1] - starts[chosen]
        before = np.cumsum(counts) - counts
        return self.arrays["members"].take(np.repeat(first - before, counts) + np.arange(counts.sum())), counts

    def sample_ids(self, samples: Numbers) -> NDArray[np.uint64]:
        """Return an id for each of the samples (m,): a hash of its key and the contents of its members.

        Among n samples two different ones have the same id with probability n^2 / 2^65: 3e-6 for ten million.
        """
        kinds = np.array([self.hash(name) for name in self.meta["extensions"]], np.uint64)
        return np.concatenate(
            [
                self._ids_of(chunk, kinds)
                for chunk in np.split(np.asarray(samples, np.int64), range(_CHUNK, len(samples), _CHUNK))
            ]
        )

    def _ids_of(self, chosen: NDArray[np.int64], kinds: NDArray[np.uint64]) -> NDArray[np.uint64]:
        rows, counts = self._rows(chosen)
        content = rows["crc"].astype(np.uint64) << np.uint64(32) ^ rows["size"].astype(np.uint64)
        held = mix(kinds[rows["ext"]] ^ mix(content))
        return mix(self.arrays["hashes"][chosen] + np.add.reduceat(held, np.cumsum(counts) - counts))

    def first_rows(self, extensions: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the number of members with these extensions (n,), and the row of the first one, or -1 (n,)."""
        wanted = [number for number, name in enumerate(self.meta["extensions"]) if name in extensions]
        hit = np.isin(self.arrays["members"]["ext"], wanted)
        counts = np.add.reduceat(hit, self.arrays["starts"][:-1], dtype=np.int64)
        first = np.flatnonzero(hit)
        before = np.concatenate([[0], np.cumsum(counts)[:-1]])
        rows = np.full(len(self), -1, np.int64)
        rows[counts > 0] = first[before[counts > 0]]
        return counts, rows

    def licenses(self) -> tuple[list[str], NDArray[np.int32]]:
        """Return the names of licences, and the index (n,) of each sample's licence, -1 if it names none."""
        return self.meta["licenses"], self.arrays["license"]


def reopened(
    urls: list[str],
    versions: list[str],
    sources: Mapping[str, int],
    meta: Mapping[str, Any],
    arrays: Mapping[str, Array],
    folder: Path | None,
) -> Catalog:
    """Return a catalog with the tables in `folder` mapped into memory, or with `arrays` if there is no folder."""
    return Catalog(urls, versions, sources, meta, tables(folder) if folder else arrays, folder)
