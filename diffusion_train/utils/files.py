"""Files and folders that are written atomically, their hashes, and the cache folder."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import platformdirs

TEMPORARY = ".tmp-"
_SETTLED = 2.0  # seconds: a file changed more recently may change again without a new time stamp


def cache_folder() -> Path:
    """Return `$DIFFUSION_TRAIN_CACHE`, or the user's cache folder on this platform."""
    chosen = os.environ.get("DIFFUSION_TRAIN_CACHE")
    return Path(chosen) if chosen else Path(platformdirs.user_cache_dir("diffusion_train"))


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file that gets the name `path` once it is complete and on disk; an error leaves nothing behind."""
    with temporary_folder(path.parent) as folder:
        temporary = folder / path.name
        with temporary.open("wb") as file:
            yield file
        publish(temporary, path)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Create a folder that gets the name `path` once it is complete and on disk; an error leaves nothing behind.

    If another process completes `path` first, its folder stays and this one is removed: both must be equal.
    """
    with temporary_folder(path.parent) as temporary:
        yield temporary
        try:
            publish(temporary, path)
        except FileExistsError:
            if not path.is_dir():
                raise


@contextmanager
def temporary_folder(parent: Path) -> Iterator[Path]:
    """Create a folder in `parent`, and remove it at the end with what is still in it."""
    temporary = parent / f"{TEMPORARY}{uuid.uuid4().hex}"
    temporary.mkdir(parents=True)
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def publish(temporary: Path, path: Path) -> None:
    """Rename a complete file, or a folder of files, to `path` on the same file system, once all of it is on disk.

    A file replaces a file, and a folder an empty folder; anything else at `path` raises FileExistsError. Every file
    gets the read and write permissions of the outermost folder, because safetensors makes its files private to the
    user.
    """
    mode = (temporary if temporary.is_dir() else temporary.parent).stat().st_mode
    for inner in [*(temporary.rglob("*") if temporary.is_dir() else ()), temporary]:
        if inner.is_file() and not inner.is_symlink():
            inner.chmod(mode & 0o666)
        _flush(inner)
    try:
        os.replace(temporary, path)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.ENOTDIR, errno.EISDIR):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from error
        raise
    _flush(path.parent)


def remove_strays(folder: Path) -> None:
    """Delete what killed processes left incomplete in `folder`; no other process may be writing there."""
    for path in folder.glob(f"{TEMPORARY}*"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file; the cache folder stores it by path, size and time of change."""
    stat = path.stat()
    where = str(path.resolve())
    state = [where, stat.st_size, stat.st_mtime_ns]
    entry = cache_folder() / "sha256" / f"{hashlib.sha256(where.encode()).hexdigest()[:32]}.json"
    if (cached := _read(entry)) and cached[:3] == state:
        return str(cached[3])
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if time.time() - stat.st_mtime > _SETTLED:
        with suppress(OSError), atomic_file(entry) as cache:  # if it cannot be stored, that only costs time
            cache.write(json.dumps([*state, digest]).encode())
    return digest


@contextmanager
def unchanged(path: Path) -> Iterator[str]:
    """Yield the SHA-256 of a file that the block reads. Raises ValueError if the file has changed at its end."""
    sha256 = file_sha256(path)
    yield sha256
    if file_sha256(path) != sha256:
        raise ValueError(f"{path}: was replaced while the command read it, perhaps by a running training; try again")


def check_sha256(path: Path, expected: str, package: str) -> None:
    """Raise ValueError unless a file of a third party's package has the known SHA-256."""
    if (found := file_sha256(path)) != expected:
        raise ValueError(f"{path} must have SHA-256 {expected}, got {found}; reinstall {package}")


def sha256_of_files(files: Mapping[str, Path]) -> str:
    """Return a hash of the names and contents of files by name; their paths do not matter."""
    total = hashlib.sha256()
    for name, path in sorted(files.items()):
        total.update(f"{file_sha256(path)} {name}\n".encode())
    return total.hexdigest()


def _flush(path: Path) -> None:
    """Wait until the content of a file, or the names in a folder, are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read(entry: Path) -> list[object]:
    try:
        content = json.loads(entry.read_text("utf-8"))
    except (OSError, ValueError):
        return []
    return content if isinstance(content, list) and len(content) == 4 else []
