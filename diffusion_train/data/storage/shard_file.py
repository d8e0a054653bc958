"""Read an object of a storage as a file."""

from __future__ import annotations

import io
from typing import Any

from diffusion_train.data.storage.base import Denied, Missing, Range, Storage, StorageError
from diffusion_train.utils.redact import redact_url


def shard_file(storage: Storage, url: str, version: str, size: int, read_ahead: int = 1 << 22) -> io.BufferedReader:
    """Open an object as a read-only file that is read `read_ahead` bytes at a time."""
    return io.BufferedReader(_Raw(storage, url, version, size), read_ahead)


class _Raw(io.RawIOBase):
    def __init__(self, storage: Storage, url: str, version: str, size: int) -> None:
        self._storage, self._url, self._version, self._size = storage, url, version, size
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        if start + offset < 0:
            raise ValueError(f"cannot seek to byte {start + offset}")
        self._at = start + offset
        return self._at

    def readinto(self, buffer: Any) -> int:
        size = max(min(len(buffer), self._size - self._at), 0)
        [data] = self._storage.read([Range(self._url, self._version, self._at, size)]) if size else [b""]
        buffer[:size] = data
        self._at += size
        return size


def read_whole(storage: Storage, url: str, at_most: int) -> bytes | None:
    """Return all bytes of a small object, or None if it does not exist.

    Also returns None if access is denied, which is S3's response for a missing object to users who cannot list the
    bucket. Raises StorageError for more than `at_most` bytes.
    """
    try:
        size, version = storage.stat(url)
    except (Missing, Denied):
        return None
    if size > at_most:
        raise StorageError(f"{redact_url(url)}: must have at most {at_most} bytes, got {size}")
    return storage.read([Range(url, version, 0, size)])[0]
