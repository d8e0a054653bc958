"""The storage of any URL that can be read, chosen by its scheme."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from diffusion_train.data.storage.base import Range, Stat
from diffusion_train.data.storage.cached import CachedStorage
from diffusion_train.data.storage.local import LocalStorage
from diffusion_train.data.storage.remote import RemoteStorage
from diffusion_train.data.storage.settings import StorageSettings
from diffusion_train.data.storage.urls import scheme_of


class StorageByScheme:
    """Files of this machine, and all else over the network, through `cache` where the settings name a folder for it."""

    def __init__(self, settings: StorageSettings | None = None) -> None:
        settings = settings or StorageSettings()
        self.ahead_bytes = settings.ahead_bytes
        self._local = LocalStorage()
        self._remote = RemoteStorage(settings)
        folder = settings.cache_folder
        self.cache = CachedStorage(self._remote, Path(folder), settings.cache_bytes) if folder else None

    @property
    def num_retries(self) -> int:
        """Requests of this process that had to be repeated."""
        return self._remote.num_retries

    def stat(self, url: str) -> Stat:
        return (self._local if scheme_of(url) == "file" else self._remote).stat(url)

    def read(self, ranges: Sequence[Range]) -> list[bytes]:
        return self.begin(ranges)[1]()

    def begin(self, ranges: Sequence[Range]) -> tuple[int, Callable[[], list[bytes]]]:
        """Asks for the ranges and returns at once: how many bytes are under way, and what gives all when called, or raises.

        What is in memory already, or may be in a cache, is not under way: it is read by that call.
        """
        remote_urls = set(filter(is_remote, {part.url for part in ranges}))
        if not remote_urls:
            return self._local.advise(ranges), partial(self._local.read, ranges)
        positions = [position for position, part in enumerate(ranges) if part.url in remote_urls]
        remote = [ranges[position] for position in positions]
        num_bytes = 0 if self.cache else sum(part.size for part in remote)
        finish = partial(self.cache.read, remote) if self.cache else self._remote.request(remote)
        return num_bytes, lambda: self._with_local(ranges, dict(zip(positions, finish(), strict=True)))

    def prefetch(self, ranges: Sequence[Range]) -> bool:
        """Begins to fetch what is remote into the cache; False where too much waits to be fetched already."""
        assert self.cache
        return self.cache.fill(part for part in ranges if is_remote(part.url))

    def _with_local(self, ranges: Sequence[Range], remote: dict[int, bytes]) -> list[bytes]:
        """`remote` are the bytes of some ranges by position; those of the others are files."""
        positions = [position for position in range(len(ranges)) if position not in remote]
        local = dict(zip(positions, self._local.read([ranges[position] for position in positions]), strict=True))
        return [(local if position in local else remote)[position] for position in range(len(ranges))]


def is_remote(url: str) -> bool:
    return ":" in url and scheme_of(url) != "file"
