"""Files and folders that appear whole or not at all, their hashes, and the cache folder."""

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
_SETTLED = 2.0  # seconds: a file changed later than this may change again within one tick of its clock


def cache_folder() -> Path:
    """`$DIFFUSION_TRAIN_CACHE`, else the platform's cache folder of this user."""
    chosen = os.environ.get("DIFFUSION_TRAIN_CACHE")
    return Path(chosen) if chosen else Path(platformdirs.user_cache_dir("diffusion_train"))


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """A file that takes the name `path` once it is complete and on disk, and leaves nothing behind on an error."""
    with temporary_folder(path.parent) as folder:
        temporary = folder / path.name
        with temporary.open("wb") as file:
            yield file
        publish(temporary, path)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A folder that takes the name `path` once it is complete and on disk, and leaves nothing behind on an error.

    Where another process completes `path` first, its folder stays and this one is removed: both must be equal.
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
    """A folder in `parent`, removed at the end with what has not been moved out of it."""
    temporary = parent / f"{TEMPORARY}{uuid.uuid4().hex}"
    temporary.mkdir(parents=True)
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def publish(temporary: Path, path: Path) -> None:
    """Renames a complete file, or a folder of files, to `path` on the same file system, once all of it is on disk.

    A file replaces a file, and a folder an empty folder; FileExistsError where `path` holds anything else. A file may
    be read and written by those who may the folder that it lay in.
    """
    for inner in temporary.rglob("*") if temporary.is_dir() else ():
        _flush(inner)
    if temporary.is_file():  # which safetensors closes to all but this user
        temporary.chmod(temporary.parent.stat().st_mode & 0o666)
    _flush(temporary)
    try:
        os.replace(temporary, path)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.ENOTDIR, errno.EISDIR):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from error
        raise
    _flush(path.parent)


def remove_strays(folder: Path) -> None:
    """Deletes the files and folders in `folder` that killed processes left incomplete; nobody may be writing there."""
    for path in folder.glob(f"{TEMPORARY}*"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def file_sha256(path: Path) -> str:
    """Reads the file once: the cache folder keeps the hash by path, size and time of change."""
    stat = path.stat()
    where = str(path.resolve())
    state = [where, stat.st_size, stat.st_mtime_ns]
    entry = cache_folder() / "sha256" / f"{hashlib.sha256(where.encode()).hexdigest()[:32]}.json"
    if (cached := _read(entry)) and cached[:3] == state:
        return str(cached[3])
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if time.time() - stat.st_mtime > _SETTLED:
        with suppress(OSError), atomic_file(entry) as cache:  # which costs time alone where it cannot be written to
            cache.write(json.dumps([*state, digest]).encode())
    return digest


def check_sha256(path: Path, expected: str, package: str) -> None:
    """ValueError where the file, of a third party's package, is not the known one."""
    if (found := file_sha256(path)) != expected:
        raise ValueError(f"{path} has SHA-256 {found}, not {expected}: refused; reinstall {package}")


def sha256_of_files(files: Mapping[str, Path]) -> str:
    """The hash of the files' names and contents, wherever they lie."""
    total = hashlib.sha256()
    for name, path in sorted(files.items()):
        total.update(f"{file_sha256(path)} {name}\n".encode())
    return total.hexdigest()


def _flush(path: Path) -> None:
    """Waits until the content of a file, or the names in a folder, are on disk."""
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
