"""A torch zip file whose comment holds the SHA-256 of everything before it, by which damage is detected.

torch.load ignores the comment.
"""

from __future__ import annotations

import hashlib
import os
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import torch

# The end of a zip file: a mark, 16 bytes, the length of the comment in 2 bytes, and the comment.
_END, _END_SIZE = b"PK\5\6", 16
_NO_COMMENT = b"\0\0"
_LABEL = b"sha256:"


def save(content: Any, file: BinaryIO) -> None:
    """Write `content` with torch.save, and its hash."""
    hashed = _Hashed(file)
    torch.save(content, hashed)  # type: ignore[arg-type]
    file.seek(-len(_NO_COMMENT), os.SEEK_END)
    file.write(_comment(hashed.digest.hexdigest()))


def problem(path: Path) -> str | None:
    """Return what is wrong with a file, or None if it is as it was written.

    Without a comment, as early versions wrote it, the checksum of every record is tested instead. Raises whatever
    zipfile raises for a damaged file.
    """
    hash_matches = _hash_matches(path)
    if hash_matches is False:
        return "damaged: its SHA-256 differs from the one in its comment"
    with zipfile.ZipFile(path) as archive:
        records = archive.infolist()
        stored = all(record.compress_type == zipfile.ZIP_STORED for record in records)
        if not stored or sum(record.file_size for record in records) > path.stat().st_size:
            return "its records take more than the file, as in a zip bomb"
        record = None if hash_matches else archive.testzip()
    return f"record {record} fails its checksum" if record else None


class _Hashed:
    """A file that is written from front to back, and the SHA-256 of what was written."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.digest = file, hashlib.sha256()

    def write(self, content: bytes) -> int:
        self.digest.update(content)
        return self.file.write(content)

    def flush(self) -> None:
        self.file.flush()


def _comment(digest: str) -> bytes:
    text = _LABEL + digest.encode()
    return len(text).to_bytes(2, "little") + text


def _hash_matches(path: Path) -> bool | None:
    """Return whether the content has the SHA-256 of the comment, which must be whole; None if there is no comment."""
    longest = len(_END) + _END_SIZE + len(_comment("0" * 64))
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - longest))
        _, end, last = file.read().rpartition(_END)
        comment = last[_END_SIZE:]
        if not end or comment == _NO_COMMENT:
            return None
        size = file.tell() - len(comment)
        digest = hashlib.sha256()
        file.seek(0)
        for start in range(0, size, 1 << 20):
            digest.update(file.read(min(1 << 20, size - start)))
    digest.update(_NO_COMMENT)
    return comment == _comment(digest.hexdigest())
