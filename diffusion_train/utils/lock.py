"""File locks, which the system releases when the process ends for any reason."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def locked(file: Path, setting: str) -> Iterator[None]:
    """Hold the lock `file` of the folder that `setting` (key=value) chose.

    Raises ValueError if the folder cannot be written to or another process holds the lock.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        stream = file.open("a+")
        is_ours = try_lock(stream.fileno())
    except OSError as error:
        raise ValueError(f"{setting}: cannot be written to or locked ({error}); give another folder") from error
    with stream:
        if not is_ours:
            stream.seek(0)
            raise ValueError(f"{setting} is in use by {stream.read()}; give another folder")
        stream.truncate(0)
        stream.write(f"process {os.getpid()} on {socket.gethostname()}")
        stream.flush()
        yield


@contextmanager
def wait_for_lock(file: Path) -> Iterator[None]:
    """Wait for the lock `file` and hold it; continue without the lock if it cannot be written or locked."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        stream = file.open("a")
    except OSError:
        yield
        return
    with stream:
        with suppress(OSError):
            fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def try_lock(descriptor: int) -> bool:
    """Lock an open file; return False if another process, or another descriptor of this one, holds the lock."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def unlock(descriptor: int) -> None:
    """Release a lock, which is needed if a process forked meanwhile holds the descriptor too."""
    fcntl.flock(descriptor, fcntl.LOCK_UN)
