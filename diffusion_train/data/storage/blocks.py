"""The files of a cache folder: complete, with checksums, of limited total size, and shared by processes of one machine.

While a block is fetched, its file is named .part and locked. A killed process leaves no lock, only a file that the next
process uses.
"""

from __future__ import annotations

import logging
import os
import time
from array import array
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from isal.isal_zlib import crc32

from diffusion_train.utils.lock import try_lock, unlock

log = logging.getLogger(__name__)
_PIECE = 1 << 16  # bytes of one checksum, which must be read to verify a small sample
_KEPT = 0.9  # fraction of `max_bytes` that an eviction leaves
_LOCK_SECONDS = 10.0


class BlockFiles:
    """The blocks in `folder`, at most `max_bytes` in total. Names are hashes. A failure to write is logged once."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self.folder, self.max_bytes = folder, max_bytes
        self._complained = False

    def read(self, name: str, size: int, start: int, end: int) -> bytes | None:
        """Return bytes `start` to `end` of a block of `size` bytes; None if it is missing, or damaged and removed."""
        path = self._path(name)
        try:
            data = _verified(path, size, start, end)
        except OSError:
            return None
        if data is None:
            log.warning("%s is damaged and is fetched again", path)
            path.unlink(missing_ok=True)
        return data

    def claim(self, name: str) -> Claim | None:
        """Return the right to fetch a block, or None while another thread or process has it."""
        path = self._path(name)
        part = path.with_suffix(".part")
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(part, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
            if try_lock(descriptor) and _is_named(descriptor, part):
                return Claim(self, path, descriptor)
            os.close(descriptor)
        except OSError as error:
            self._complain(error)
            return Claim(self, path, None)
        return None

    def write(self, path: Path, descriptor: int, data: bytes) -> None:
        """Write a block with its checksums to a claimed .part file and rename it; skipped if there is no room."""
        checksums = array("I", [crc32(data[at : at + _PIECE]) for at in range(0, len(data), _PIECE)])
        contents = data + checksums.tobytes()
        try:
            if len(contents) > self.max_bytes * _KEPT or not self._reserve(len(contents)):
                return
            os.ftruncate(descriptor, 0)
            written = 0
            while written < len(contents):
                written += os.pwrite(descriptor, memoryview(contents)[written:], written)
            os.replace(path.with_suffix(".part"), path)
        except OSError as error:
            self._complain(error)

    def _reserve(self, size: int) -> bool:
        """Reserve `size` bytes before they are written, evicting the least recently used blocks; False if it fails."""
        with _locked(self.folder / "used") as descriptor:
            if descriptor is None:
                return False
            text = os.pread(descriptor, 32, 0).strip()
            used = int(text) if text.isdigit() else self.max_bytes
            if used + size > self.max_bytes:
                used = self._evict(int(self.max_bytes * _KEPT) - size)
            os.pwrite(descriptor, b"%-32d" % (used + size), 0)
            return True

    def _evict(self, allowed: int) -> int:
        """Remove the least recently used blocks until `allowed` bytes are left; return the bytes that are left."""
        files = []
        for path in self.folder.glob("??/*"):
            with suppress(OSError):
                if path.suffix == ".part" and _is_free(path):
                    path.unlink()
                    continue
                stat = path.stat()
                files.append((stat.st_mtime_ns, stat.st_size, path))
        left = sum(size for _, size, _ in files)
        for _, size, path in sorted(files):
            if left <= allowed:
                break
            with suppress(OSError):
                path.unlink()
                left -= size
        return left

    def _path(self, name: str) -> Path:
        return self.folder / name[:2] / name

    def _complain(self, error: OSError) -> None:
        if not self._complained:
            log.warning("%s: cannot write to the cache (%s); continuing without it", self.folder, error.strerror)
        self._complained = True


class Claim:
    """The exclusive right of a thread to fetch a block, until it is released."""

    def __init__(self, files: BlockFiles, path: Path, descriptor: int | None) -> None:
        self._files, self._path, self._descriptor = files, path, descriptor

    def write(self, data: bytes) -> None:
        if self._descriptor is not None:
            self._files.write(self._path, self._descriptor, data)

    def release(self) -> None:
        """Remove an unfinished .part file and release the lock."""
        if self._descriptor is None:
            return
        part = self._path.with_suffix(".part")
        with suppress(OSError):
            if _is_named(self._descriptor, part):
                part.unlink()
        unlock(self._descriptor)  # a process forked meanwhile holds the descriptor too
        os.close(self._descriptor)


def _verified(path: Path, size: int, start: int, end: int) -> bytes | None:
    first, last = start // _PIECE, -(-end // _PIECE)
    low, high = first * _PIECE, min(last * _PIECE, size)
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        data = os.pread(descriptor, high - low, low)
        checksums = os.pread(descriptor, 4 * (last - first), size + 4 * first)
        with suppress(OSError):
            os.utime(descriptor)
    finally:
        os.close(descriptor)
    view = memoryview(data)
    found = array("I", [crc32(view[at : at + _PIECE]) for at in range(0, len(data), _PIECE)])
    if len(data) != high - low or found.tobytes() != checksums:
        return None
    return data[start - low : end - low]


@contextmanager
def _locked(path: Path) -> Iterator[int | None]:
    """Lock a file and yield its descriptor, or None after `_LOCK_SECONDS` without the lock."""
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    until = time.monotonic() + _LOCK_SECONDS
    try:
        while not (got := try_lock(descriptor)) and time.monotonic() < until:
            time.sleep(0.01)
        yield descriptor if got else None
        if got:
            unlock(descriptor)
    finally:
        os.close(descriptor)


def _is_named(descriptor: int, path: Path) -> bool:
    """Whether `path` is still this file: it may have been finished or removed before it was locked."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _is_free(path: Path) -> bool:
    with path.open("rb") as file:
        return try_lock(file.fileno())
