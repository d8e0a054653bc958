"""Files that appear whole or not at all, their hashes, and the folder of what can be made again."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import platformdirs

TEMPORARY = ".tmp-"
_SETTLED = 2.0  # seconds: a file changed later than this may change again within one tick of its clock


def cache_folder() -> Path:
    """`$DIFFUSION_TRAIN_CACHE`, else the platform's cache folder of this user."""
    chosen = os.environ.get("DIFFUSION_TRAIN_CACHE")
    return Path(chosen) if chosen else Path(platformdirs.user_cache_dir("diffusion_train"))


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
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


def file_sha256(path: Path) -> str:
    """Taken once: kept by path, size and time of change."""
    stat = path.stat()
    where = str(path.resolve())
    state = [where, stat.st_size, stat.st_mtime_ns]
    kept = cache_folder() / "sha256" / f"{hashlib.sha256(where.encode()).hexdigest()[:32]}.json"
    if (found := _read(kept)) and found[:3] == state:
        return str(found[3])
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if time.time() - stat.st_mtime > _SETTLED:
        _write(kept, [*state, digest])
    return digest


def sha256_of_files(files: Mapping[str, Path]) -> str:
    """Of names and contents; where the files lie does not matter."""
    total = hashlib.sha256()
    for name, path in sorted(files.items()):
        total.update(f"{file_sha256(path)} {name}\n".encode())
    return total.hexdigest()


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


def _read(kept: Path) -> list[object]:
    try:
        found = json.loads(kept.read_text("utf-8"))
    except (OSError, ValueError):
        return []
    return found if isinstance(found, list) and len(found) == 4 else []


def _write(kept: Path, entry: list[object]) -> None:
    try:
        with atomic_file(kept) as file:
            file.write(json.dumps(entry).encode())
    except OSError:
        return  # a cache that cannot be written to costs time alone
