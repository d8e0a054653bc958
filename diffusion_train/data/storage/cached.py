"""A local cache of another storage, of limited size, in whole blocks."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from diffusion_train.data.storage.base import Range, Storage, check_inside, split_version
from diffusion_train.data.storage.blocks import BlockFiles, Claim
from diffusion_train.data.storage.prefetch import Prefetcher

_POLL_SECONDS = 0.02


class _Block(NamedTuple):
    """Block `number` of an object, of `size` bytes; all blocks but the last have the same size."""

    url: str
    version: str
    number: int
    size: int

    @property
    def name(self) -> str:
        return hashlib.sha256("\0".join(map(str, self)).encode()).hexdigest()


class _Window(NamedTuple):
    """Bytes `start` to `end` of a block, which are a part of the range at `position` in a list."""

    block: _Block
    start: int
    end: int
    position: int


class CachedStorage:
    """A storage with a cache. Processes that need the same block fetch it once.

    A process that has waited `patience` seconds for another one fetches the block itself. Raises ValueError if
    `max_bytes` is too small.
    """

    def __init__(
        self, storage: Storage, folder: Path, max_bytes: int, block_bytes: int = 1 << 22, patience: float = 60.0
    ) -> None:
        if max_bytes < 2 * block_bytes:
            raise ValueError(f"data.storage.cache_bytes must be at least {2 * block_bytes}, got {max_bytes}")
        self.storage = storage
        self._files = BlockFiles(folder, max_bytes)
        self.max_bytes, self.block_bytes = max_bytes, block_bytes
        self._patience = patience
        self._prefetcher = Prefetcher(self._fetch_absent)

    def read(self, ranges: Sequence[Range]) -> list[bytes]:
        """Return the bytes of every range, in order; missing blocks are fetched and added to the cache."""
        check_inside(ranges)
        windows = [window for position, part in enumerate(ranges) for window in self._windows(position, part)]
        parts = [self._cached(window.block, window.start, window.end) for window in windows]
        missing = dict.fromkeys(window.block for window, part in zip(windows, parts, strict=True) if part is None)
        fetched = self._fetch(missing)
        pieces: list[list[bytes]] = [[] for _ in ranges]
        for window, part in zip(windows, parts, strict=True):
            pieces[window.position].append(fetched[window.block][window.start : window.end] if part is None else part)
        return [parts[0] if len(parts) == 1 else b"".join(parts) for parts in pieces]

    def fill(self, ranges: Iterable[Range]) -> bool:
        """Queue the blocks to be fetched in the background; errors are raised when they are read.

        Returns False, and queues nothing, if too many blocks are queued already.
        """
        return self._prefetcher.add(window.block for part in ranges for window in self._windows(0, part))

    def __reduce__(self) -> tuple[type[CachedStorage], tuple[Storage, Path, int, int, float]]:
        return CachedStorage, (self.storage, self._files.folder, self.max_bytes, self.block_bytes, self._patience)

    def _windows(self, position: int, part: Range) -> Iterator[_Window]:
        url, version, offset, size = part
        total, _ = split_version(version)
        end = offset + size
        for number in range(offset // self.block_bytes, -(-end // self.block_bytes) if size else 0):
            low = number * self.block_bytes
            block = _Block(url, version, number, min(self.block_bytes, total - low))
            yield _Window(block, max(offset - low, 0), min(end - low, self.block_bytes), position)

    def _cached(self, block: _Block, start: int, end: int) -> bytes | None:
        """Return bytes of a block, or None if it is not in the cache."""
        return self._files.read(block.name, block.size, start, end)

    def _fetch_absent(self, blocks: Iterable[_Block]) -> None:
        """Fetch the missing blocks that no other thread or process is fetching."""
        absent = [block for block in blocks if self._cached(block, 0, 1) is None]
        self._fetch_claimed({block: claim for block in absent if (claim := self._files.claim(block.name))})

    def _fetch(self, blocks: Iterable[_Block]) -> dict[_Block, bytes]:
        """Return the blocks: first fetch those that no other process is fetching, then wait for the others."""
        claims = {block: self._files.claim(block.name) for block in blocks}
        mine = {block: claim for block, claim in claims.items() if claim}
        bodies = self._fetch_claimed(mine)
        until = time.monotonic() + self._patience
        for block in claims.keys() - mine.keys():
            bodies[block] = self._fetch_other(block, until)
        return bodies

    def _fetch_claimed(self, claims: dict[_Block, Claim]) -> dict[_Block, bytes]:
        try:
            bodies = {block: body for block in claims if (body := self._cached(block, 0, block.size)) is not None}
            absent = [block for block in claims if block not in bodies]
            for block, body in zip(absent, self._request(absent), strict=True):
                claims[block].write(body)
                bodies[block] = body
            return bodies
        finally:
            for claim in claims.values():
                claim.release()

    def _fetch_other(self, block: _Block, until: float) -> bytes:
        while time.monotonic() < until:
            if (body := self._cached(block, 0, block.size)) is not None:
                return body
            if claim := self._files.claim(block.name):
                return self._fetch_claimed({block: claim})[block]
            time.sleep(_POLL_SECONDS)
        return self._request([block])[0]

    def _request(self, blocks: Sequence[_Block]) -> list[bytes]:
        if not blocks:
            return []
        return self.storage.read(
            [Range(block.url, block.version, block.number * self.block_bytes, block.size) for block in blocks]
        )
