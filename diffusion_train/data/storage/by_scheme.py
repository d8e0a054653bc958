"""The storage of any URL that can be read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from diffusion_train.data.storage.base import Range, Stat
from diffusion_train.data.storage.cached import CachedStorage
from diffusion_train.data.storage.local import LocalStorage
from diffusion_train.data.storage.remote import RemoteStorage
from diffusion_train.data.storage.settings import Settings
from diffusion_train.data.storage.urls import scheme_of


class StorageByScheme:
    """Files of this machine, and all else over the network: through a cache of `cache_bytes` in a folder, where given.

    `ahead_bytes` say how much each process should ask for by `begin` before it is needed; 0: not even a cache is filled ahead.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        cache_folder: str | Path | None = None,
        cache_bytes: int = 1 << 36,
        ahead_bytes: int = 1 << 27,
    ) -> None:
        if ahead_bytes < 0:
            raise ValueError(f"data.storage.ahead_bytes={ahead_bytes}: at least 0, which reads nothing ahead")
        self.ahead_bytes = ahead_bytes
        self._local = LocalStorage()
        self._remote = RemoteStorage(settings)
        self.cache = CachedStorage(self._remote, Path(cache_folder), cache_bytes) if cache_folder else None

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
        far_urls = set(filter(is_remote, {wanted.url for wanted in ranges}))
        if not far_urls:
            return self._local.expect(ranges), partial(self._local.read, ranges)
        remote = [place for place, wanted in enumerate(ranges) if wanted.url in far_urls]
        far = [ranges[place] for place in remote]
        num_bytes = 0 if self.cache else sum(wanted.size for wanted in far)
        finish = partial(self.cache.read, far) if self.cache else self._remote.begin(far)
        return num_bytes, lambda: self._joined(ranges, dict(zip(remote, finish(), strict=True)))

    def prefetch(self, ranges: Sequence[Range]) -> bool:
        """Begins to fetch what is remote into the cache; False where too much waits to be fetched already."""
        assert self.cache
        return self.cache.prefetch([wanted for wanted in ranges if is_remote(wanted.url)])

    def _joined(self, ranges: Sequence[Range], parts: dict[int, bytes]) -> list[bytes]:
        local = [place for place in range(len(ranges)) if place not in parts]
        parts |= zip(local, self._local.read([ranges[place] for place in local]), strict=True)
        return [parts[place] for place in range(len(ranges))]


def is_remote(url: str) -> bool:
    return ":" in url and scheme_of(url) != "file"
