"""File locks, which the system releases when the process ends for any reason."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

_held: set[IO[str]] = set()


def _close_held() -> None:
    """Leave the locks to the parent of a forked process, which may outlive it."""
    while _held:
        _held.pop().close()


os.register_at_fork(after_in_child=_close_held)


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
    with _held_here(stream):
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
    with _held_here(stream):
        with suppress(OSError):
            fcntl.flock(stream, fcntl.LOCK_EX)
        yield


@contextmanager
def _held_here(stream: IO[str]) -> Iterator[None]:
    """Close the file after the block, and in all processes that are forked inside it."""
    _held.add(stream)
    try:
        with stream:
            yield
    finally:
        _held.discard(stream)


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
