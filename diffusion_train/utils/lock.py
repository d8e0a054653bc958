"""Locks on files, which the system lifts when their process ends, however it ends."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def locked(file: Path, setting: str) -> Iterator[None]:
    """Holds the lock `file`, which stands for the folder that `setting` (key=value) chose.

    ValueError where that folder cannot be written to or another process holds the lock.
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
    """Holds the lock `file` once no other process does; continues without where it cannot be written or locked."""
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
    """False where another process, or another opening of the file by this one, holds the lock."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def unlock(descriptor: int) -> None:
    """Needed where a process forked meanwhile holds the descriptor too."""
    fcntl.flock(descriptor, fcntl.LOCK_UN)
