"""Files of this machine."""

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
_PAGE = 4096  # bytes; less than this comes along with what lies beside it
_WAITED = 5e-5  # seconds a range: more than it takes from memory
_CAN_ADVISE = hasattr(os, "posix_fadvise")


class LocalStorage:
    """Keeps some files open; positional reads share no offset, so copies in forked and spawned workers are safe."""

    def __init__(self) -> None:
        self._open: OrderedDict[tuple[str, str], _Descriptor] = OrderedDict()
        self.has_waited = False

    def stat(self, url: str) -> Stat:
        """Denied as well for a file that can be seen but not read."""
        try:
            facts = os.stat(local_path(url))
            if not stat.S_ISREG(facts.st_mode):
                raise StorageError(f"{url}: not a file")
            _Descriptor(url)
        except OSError as error:
            raise local_error(url, error) from error
        return Stat(facts.st_size, _version(facts))

    def advise(self, ranges: Sequence[Range]) -> int:
        """Advises the system to fetch them all, and waits for none; returns how many bytes it was asked for.

        0 until reading has waited once for a disk or a network file system.
        """
        if not (_CAN_ADVISE and self.has_waited):
            return 0
        large = [part for part in ranges if part.size >= _PAGE]
        for url, version, offset, size in large:
            with suppress(OSError, StorageError):  # raised when it is read
                os.posix_fadvise(self._descriptor(url, version).number, offset, size, os.POSIX_FADV_WILLNEED)
        return sum(part.size for part in large)

    def read(self, ranges: Sequence[Range]) -> list[bytes]:
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
    """Closed once nobody reads from it any more."""

    __slots__ = ("known", "number")

    def __init__(self, url: str) -> None:
        self.known: tuple[int, int] | None = None  # size and time of change that are those of the version wanted
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
        raise Changed(f"{url}: changed since it was indexed; start again to index it anew")
    file.known = state


def _version(facts: os.stat_result) -> str:
    return make_version(facts.st_size, facts.st_mtime_ns)


def _rest(descriptor: int, url: str, offset: int, size: int, data: bytes) -> bytes:
    """`data` and what follows: the system gives at most 2 GiB at once. Raises Changed where less is there."""
    parts, done = [data], len(data)
    while done < size and (part := os.pread(descriptor, size - done, offset + done)):
        parts.append(part)
        done += len(part)
    if done != size:
        raise Changed(f"{url} at byte {offset}: {size} bytes wanted, {done} there")
    return b"".join(parts)


def local_error(url: str, error: OSError) -> StorageError:
    """The error of this package that says what `error` means for a file."""
    if isinstance(error, FileNotFoundError):
        return Missing(f"{url}: {'a link to nothing' if os.path.islink(local_path(url)) else 'no such file'}")
    if isinstance(error, PermissionError):
        return Denied(f"{url}: {error.strerror} for user {_user()}")
    return StorageError(f"{url}: {error.strerror or error}")


def _user() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())
