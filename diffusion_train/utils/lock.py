"""A folder that one process at a time writes to."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def locked(file: Path, setting: str) -> Iterator[None]:
    """Holds a lock on `file`, in the folder that `setting` (key=value) chose.

    ValueError where that folder cannot be written to or another process holds the lock. The system lifts it when the
    process ends, however it ends.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        stream = file.open("a+")
    except OSError as error:
        raise ValueError(f"{setting}: cannot be written to ({error}); give another folder") from error
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            stream.seek(0)
            raise ValueError(f"{setting} is in use by {stream.read()}; give another folder") from error
        stream.truncate(0)
        stream.write(f"process {os.getpid()} on {socket.gethostname()}")
        stream.flush()
        yield
