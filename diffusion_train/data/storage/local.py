"""Local files."""

from __future__ import annotations

import os
import pwd
import stat
import time
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress

from diffusion_train.data.storage.base import Changed, Denied, Missing, Range, Stat, StorageError, make_version
from diffusion_train.data.storage.urls import local_path

_MAX_OPEN = 64
_PAGE = 4096  # bytes; smaller ranges are read together with their neighbours
_WAITED = 5e-5  # seconds per range; reading from memory takes less
_CAN_ADVISE = hasattr(os, "posix_fadvise")


class LocalStorage:
    """Reads local files and keeps some of them open. Reads are positional, so forked and spawned workers are safe."""

    def __init__(self) -> None:
        self._open: OrderedDict[tuple[str, str], _Descriptor] = OrderedDict()
        self.has_waited = False

    def stat(self, url: str) -> Stat:
        """Return the state of a file. Raises Denied also for a file that exists but cannot be read."""
        try:
            facts = os.stat(local_path(url))
            if not stat.S_ISREG(facts.st_mode):
                raise StorageError(f"{url}: not a file")
            _Descriptor(url)
        except OSError as error:
            raise local_error(url, error) from error
        return Stat(facts.st_size, _version(facts))

    def advise(self, ranges: Sequence[Range]) -> int:
        """Advise the system to read these ranges, without waiting; return their number of bytes.

        Returns 0 until a read has once waited for a disk or a network file system.
        """
        if not (_CAN_ADVISE and self.has_waited):
            return 0
        large = [part for part in ranges if part.size >= _PAGE]
        for url, version, offset, size in large:
            with suppress(OSError, StorageError):  # raised when it is read
                os.posix_fadvise(self._descriptor(url, version).number, offset, size, os.POSIX_FADV_WILLNEED)
        return sum(part.size for part in large)

    def read(self, ranges: Sequence[Range]) -> list[bytes]:
        """Return the bytes of each range. Raises Changed if a file is not in the state of its version."""
        used: dict[tuple[str, str], _Descriptor] = {}
        parts = []
        started = time.perf_counter()
        for url, version, offset, size in ranges:
            file = used.get((url, version))
            if file is None:
                file = used[url, version] = self._descriptor(url, version)
            try:
                data = os.pread(file.number, size, offset)
                if len(data) != size:
                    data = _rest(file.number, url, offset, size, data)
            except OSError as error:
                raise local_error(url, error) from error
            parts.append(data)
        self.has_waited |= time.perf_counter() - started > _WAITED * len(ranges)
        for (url, version), file in used.items():
            _check(file, url, version)
        return parts

    def _descriptor(self, url: str, version: str) -> _Descriptor:
        key = url, version
        with suppress(KeyError):  # never opened, or closed by another thread just now
            self._open.move_to_end(key)
            return self._open[key]
        file = self._open[key] = _Descriptor(url)
        if len(self._open) > _MAX_OPEN:
            with suppress(KeyError):
                self._open.popitem(last=False)
        return file

    def __getstate__(self) -> dict[str, object]:
        return vars(self) | {"_open": OrderedDict()}


class _Descriptor:
    """An open file, which is closed when nothing refers to it any more."""

    __slots__ = ("known", "number")

    def __init__(self, url: str) -> None:
        self.known: tuple[int, int] | None = None  # size and time of change, after they were found to match the version
        self.number = -1
        try:
            self.number = os.open(local_path(url), os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise local_error(url, error) from error

    def __del__(self) -> None:
        if self.number >= 0:
            os.close(self.number)


def _check(file: _Descriptor, url: str, version: str) -> None:
    facts = os.fstat(file.number)
    if (state := (facts.st_size, facts.st_mtime_ns)) == file.known:
        return
    if _version(facts) != version:
        raise Changed(f"{url}: changed since it was indexed; restart to index it again")
    file.known = state


def _version(facts: os.stat_result) -> str:
    return make_version(facts.st_size, facts.st_mtime_ns)


def _rest(descriptor: int, url: str, offset: int, size: int, data: bytes) -> bytes:
    """Read the rest after `data`: the system returns at most 2 GiB at once. Raises Changed if the file is shorter."""
    parts, done = [data], len(data)
    while done < size and (part := os.pread(descriptor, size - done, offset + done)):
        parts.append(part)
        done += len(part)
    if done != size:
        raise Changed(f"{url} at byte {offset}: expected {size} bytes, got {done}")
    return b"".join(parts)


def local_error(url: str, error: OSError) -> StorageError:
    """Return the StorageError that corresponds to an OSError of a file."""
    if isinstance(error, FileNotFoundError):
        return Missing(f"{url}: {'a broken link' if os.path.islink(local_path(url)) else 'no such file'}")
    if isinstance(error, PermissionError):
        return Denied(f"{url}: {error.strerror} for user {_user()}")
    return StorageError(f"{url}: {error.strerror or error}")


def _user() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())
