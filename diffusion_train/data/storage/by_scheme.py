"""The storage of all supported URLs, chosen by scheme."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from diffusion_train.data.storage.base import Range, Stat
from diffusion_train.data.storage.cached import CachedStorage
from diffusion_train.data.storage.local import LocalStorage
from diffusion_train.data.storage.remote import RemoteStorage
from diffusion_train.data.storage.settings import StorageSettings
from diffusion_train.data.storage.urls import is_local


class StorageByScheme:
    """Reads local files, and remote objects over the network, through `cache` if the settings have a cache folder."""

    def __init__(self, settings: StorageSettings | None = None) -> None:
        settings = settings or StorageSettings()
        self.ahead_bytes = settings.ahead_bytes
        self._local = LocalStorage()
        self._remote = RemoteStorage(settings)
        folder = settings.cache_folder
        self.cache = CachedStorage(self._remote, Path(folder), settings.cache_bytes) if folder else None

    @property
    def num_retries(self) -> int:
        """The number of requests of this process that had to be repeated."""
        return self._remote.num_retries

    def stat(self, url: str) -> Stat:
        return (self._local if is_local(url) else self._remote).stat(url)

    def read(self, ranges: Sequence[Range]) -> list[bytes]:
        return self.begin(ranges)[1]()

    def begin(self, ranges: Sequence[Range]) -> tuple[int, Callable[[], list[bytes]]]:
        """Request the ranges, and return at once (requested bytes, function that returns all bytes or raises).

        Bytes that are in memory or may be in the cache are not requested; the function reads them when it is called.
        """
        remote_urls = {url for url in {part.url for part in ranges} if not is_local(url)}
        if not remote_urls:
            return self._local.advise(ranges), partial(self._local.read, ranges)
        remote = [part for part in ranges if part.url in remote_urls]
        num_bytes = 0 if self.cache else sum(part.size for part in remote)
        finish = partial(self.cache.read, remote) if self.cache else self._remote.request(remote)

        def parts() -> list[bytes]:
            fetched = iter(finish())
            local = iter(self._local.read([part for part in ranges if part.url not in remote_urls]))
            return [next(fetched if part.url in remote_urls else local) for part in ranges]

        return num_bytes, parts

    def prefetch(self, ranges: Sequence[Range]) -> bool:
        """Start to fetch the remote ranges into the cache; return False if too many blocks are queued."""
        assert self.cache
        return self.cache.fill(part for part in ranges if not is_local(part.url))
