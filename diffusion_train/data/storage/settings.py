"""The settings of `data.storage`."""

from __future__ import annotations

import os
from dataclasses import dataclass

_POSITIVE = ("connect_timeout", "read_timeout", "deadline", "min_speed")


@dataclass(frozen=True)
class StorageSettings:
    """Settings of storage, in seconds, bytes, and bytes per second. Raises ValueError for values out of range.

    A cache of `cache_bytes` is kept in `cache_folder`, if that is set. Each process requests about `ahead_bytes` before
    it needs them; 0 reads nothing ahead, and does not fill the cache ahead. `read_timeout` is the longest time without
    data, `min_speed` the lowest average speed of a response. Requests are retried until `deadline`, plus the time that
    the received bytes take at `min_speed`. Each process sends `num_requests` at a time; ranges with at most `gap_bytes`
    between them share a request.
    """

    cache_folder: str | os.PathLike[str] | None = None
    cache_bytes: int = 1 << 36
    ahead_bytes: int = 1 << 27
    connect_timeout: float = 10.0
    read_timeout: float = 20.0
    deadline: float = 180.0
    min_speed: float = 16384.0
    num_requests: int = 16
    gap_bytes: int = 65536

    def __post_init__(self) -> None:
        for name in _POSITIVE:
            if not getattr(self, name) > 0:
                raise ValueError(f"data.storage.{name} must be more than 0, got {getattr(self, name)}")
        for name, least in (("num_requests", 1), ("gap_bytes", 0), ("ahead_bytes", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"data.storage.{name} must be at least {least}, got {getattr(self, name)}")
