"""The storage of any URL that can be read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from diffusion_train.data.storage.base import Range, Stat
from diffusion_train.data.storage.cached import CachedStorage
from diffusion_train.data.storage.local import LocalStorage
from diffusion_train.data.storage.remote import RemoteStorage
from diffusion_train.data.storage.settings import Settings
from diffusion_train.data.storage.urls import scheme_of


class StorageByScheme:
    """Files of this machine, and all else over the network: through a cache of `cache_bytes` in a folder, where given."""

    def __init__(
        self,
        settings: Settings | None = None,
        cache_folder: str | Path | None = None,
        cache_bytes: int = 1 << 36,
    ) -> None:
        self._local = LocalStorage()
        self._remote = RemoteStorage(settings)
        self._cached = CachedStorage(self._remote, Path(cache_folder), cache_bytes) if cache_folder else None

    @property
    def num_retries(self) -> int:
        """Requests of this process that had to be repeated."""
        return self._remote.num_retries

    def stat(self, url: str) -> Stat:
        return (self._local if scheme_of(url) == "file" else self._remote).stat(url)

    def read(self, ranges: Sequence[Range]) -> list[bytes]:
        remote = [place for place, wanted in enumerate(ranges) if ":" in wanted.url and scheme_of(wanted.url) != "file"]
        if not remote:
            return self._local.read(ranges)
        parts = dict(zip(remote, (self._cached or self._remote).read([ranges[place] for place in remote]), strict=True))
        local = [place for place in range(len(ranges)) if place not in parts]
        parts |= zip(local, self._local.read([ranges[place] for place in local]), strict=True)
        return [parts[place] for place in range(len(ranges))]

    def prefetch(self, ranges: Sequence[Range]) -> None:
        """Begins to fetch what is remote into the cache, and returns at once; nothing without one."""
        if self._cached:
            self._cached.prefetch([wanted for wanted in ranges if scheme_of(wanted.url) != "file"])
