"""Shards whose samples are found by an address: a hash of everything that determines their contents.

Entries made from other data or with other settings have another address, so that they are never used by mistake.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
from safetensors.torch import save
from torch import Tensor

from diffusion_train.data.shard.catalog import Catalog
from diffusion_train.data.shard.catalog_builder import open_shards
from diffusion_train.data.shard.index_file import open_index
from diffusion_train.data.shard.patterns import Patterns
from diffusion_train.data.shard.writer import write_shard
from diffusion_train.data.storage.base import Range
from diffusion_train.data.storage.by_scheme import StorageByScheme

EXTENSION = "safetensors"
_SHARD_BYTES = 1 << 28
_SHARD_SECONDS = 300.0  # the most work that is lost if a process is killed


def address(*parts: object) -> str:
    """Return the address of an entry: a hash of plain data."""
    return hashlib.sha256(repr(parts).encode("utf-8", "surrogatepass")).hexdigest()[:32]


class Entries:
    """The entries of a folder, or of shards given as in `data.shards`; there are none in an empty folder."""

    def __init__(self, where: Patterns, storage: StorageByScheme | None = None) -> None:
        self.storage = storage or StorageByScheme()
        self.catalog = open_shards(shards, self.storage) if (shards := _shards(where)) else None
        hashes = self.catalog.arrays["hashes"] if self.catalog else np.empty(0, np.uint64)
        self._by_hash = np.argsort(hashes)
        self._hashes = hashes[self._by_hash]

    def __len__(self) -> int:
        return len(self._hashes)

    def find(self, addresses: Sequence[str]) -> list[int]:
        """Return the number of each entry, -1 if it does not exist."""
        if self.catalog is None or not addresses:
            return [-1] * len(addresses)
        wanted = np.array([Catalog.hash(one) for one in addresses], np.uint64)
        numbers = self._by_hash[np.searchsorted(self._hashes, wanted).clip(max=len(self) - 1)]
        keys = self.catalog.keys(numbers)
        return [
            number if key == one else -1 for number, key, one in zip(numbers.tolist(), keys, addresses, strict=True)
        ]

    def ranges(self, numbers: Sequence[int]) -> list[tuple[Range, int]]:
        """Return the byte ranges of entries and their checksums."""
        if self.catalog is None:
            return []
        return [members[EXTENSION] for members in self.catalog.members_of(numbers, {EXTENSION})]


class EntryWriter(AbstractContextManager["EntryWriter"]):
    """Writes entries to shards in `folder`, atomically and with indexes.

    Entries are also kept if `with` ends by an error.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name = folder, name
        self._waiting: dict[str, bytes] = {}
        self._num_bytes, self._since = 0, time.monotonic()

    def __exit__(self, *error: object) -> None:
        self.flush()

    def add(self, address: str, tensors: Mapping[str, Tensor]) -> None:
        """Add an entry, which is written with the next shard: after 256 MiB or five minutes."""
        data = save({name: value.contiguous() for name, value in tensors.items()})
        self._waiting[address] = data
        self._num_bytes += len(data)
        if self._num_bytes >= _SHARD_BYTES or time.monotonic() - self._since >= _SHARD_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write the pending entries to a shard.

        Its name depends on them, so that no two processes use the same name.
        """
        if self._waiting:
            shard = self.folder / f"{self.name}-{address(*self._waiting)[:16]}.tar"
            write_shard(({"__key__": key, EXTENSION: data} for key, data in self._waiting.items()), shard)
            open_index(shard)
        self._waiting = {}
        self._num_bytes, self._since = 0, time.monotonic()


def _shards(where: Patterns) -> Patterns:
    if isinstance(where, str | os.PathLike) and os.path.isdir(where):
        return sorted(Path(where).glob("*.tar"))
    return where
