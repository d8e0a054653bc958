"""Where things that can be made again are kept, and how files appear whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import platformdirs

TEMPORARY = ".tmp-"


def cache_folder() -> Path:
    """`$DIFFUSION_TRAIN_CACHE`, else the platform's cache folder of this user."""
    chosen = os.environ.get("DIFFUSION_TRAIN_CACHE")
    return Path(chosen) if chosen else Path(platformdirs.user_cache_dir("diffusion_train"))


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """A file that takes the name `path` once it is complete and on disk, and leaves nothing behind on an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=TEMPORARY, dir=path.parent)
    try:
        os.close(handle)
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
        _flush_folder(path.parent)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def remove_strays(folder: Path) -> None:
    """Deletes what killed processes left half written."""
    for path in folder.glob(f"{TEMPORARY}*"):
        path.unlink(missing_ok=True)


def _flush_folder(folder: Path) -> None:
    """Puts a new name on the disk, where the system can flush folders."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
