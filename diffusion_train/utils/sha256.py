"""SHA-256 of files, each taken once: kept by path, size and time of change."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from pathlib import Path

from diffusion_train.utils.cache import atomic_write, cache_folder

_SETTLED = 2.0  # seconds: a file changed later than this may change again within one tick of its clock


def file_sha256(path: Path) -> str:
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


def _read(kept: Path) -> list[object]:
    try:
        found = json.loads(kept.read_text("utf-8"))
    except (OSError, ValueError):
        return []
    return found if isinstance(found, list) and len(found) == 4 else []


def _write(kept: Path, entry: list[object]) -> None:
    try:
        with atomic_write(kept) as file:
            file.write(json.dumps(entry).encode())
    except OSError:
        return  # a cache that cannot be written to costs time alone
