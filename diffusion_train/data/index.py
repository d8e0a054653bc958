"""The index of a shard: where each sample's members lie, verified once and kept beside the shard.

Members belong together by WebDataset's rule: one key is the path up to the first dot of its last part.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from diffusion_train.data import tar
from diffusion_train.data.decode import IMAGE_EXTENSIONS
from diffusion_train.data.header import MAX_BYTES, ImageError, image_size
from diffusion_train.utils.cache import atomic_write, cache_folder

FORMAT = 1
MEMBER = np.dtype(
    [("ext", "<i4"), ("offset", "<i8"), ("size", "<i8"), ("crc", "<u4"), ("width", "<i4"), ("height", "<i4")]
)
_KEY = re.compile(r"(?P<key>(?:.*/)?[^./]+)\.(?P<ext>[^/]*)", re.DOTALL)
_CHUNK = 1 << 20
_MAGIC = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bzip2", b"\xfd7zXZ": "xz"}


@dataclass(frozen=True)
class Problem:
    """One fault of a shard, at a byte of it where known."""

    shard: str
    reason: str
    offset: int | None = None

    def __str__(self) -> str:
        where = "" if self.offset is None else f" at byte {self.offset}"
        return f"{self.shard}{where}: {self.reason}"


class DataError(ValueError):
    """Data that cannot be trained on; `problems` lists the faults where there are several."""

    problems: tuple[Problem, ...] = ()

    @classmethod
    def listing(cls, problems: Sequence[Problem], shown: int = 30) -> DataError:
        lines = [f"  {problem}" for problem in problems[:shown]]
        if len(problems) > shown:
            lines.append(f"  ... and {len(problems) - shown} more")
        error = cls("\n".join([f"{len(problems)} problem(s) with data.shards:", *lines]))
        error.problems = tuple(problems)
        return error


@dataclass(frozen=True, eq=False)
class ShardIndex:
    """Samples 0..n-1 of one shard; the members of sample i are `members[starts[i]:starts[i + 1]]`."""

    path: str
    file_size: int
    mtime_ns: int
    digest: str
    num_ignored: int
    extensions: list[str]
    keys: NDArray[np.uint8]
    key_ends: NDArray[np.int64]
    starts: NDArray[np.int64]
    members: NDArray[np.void]

    def __len__(self) -> int:
        return len(self.key_ends)

    def key(self, sample: int) -> str:
        start = self.key_ends[sample - 1] if sample else 0
        return self.keys[start : self.key_ends[sample]].tobytes().decode()

    def sample(self, sample: int) -> dict[str, tuple[int, int]]:
        """{extension: (offset, size)}"""
        rows = self.members[self.starts[sample] : self.starts[sample + 1]]
        return {self.extensions[row["ext"]]: (int(row["offset"]), int(row["size"])) for row in rows}

    def rows(self, extensions: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """How many members of these extensions each sample has (n,), and the row of its first one or -1 (n,)."""
        wanted = [number for number, name in enumerate(self.extensions) if name in extensions]
        hit = np.isin(self.members["ext"], wanted)
        counts = np.add.reduceat(hit, self.starts[:-1], dtype=np.int64)
        first = np.flatnonzero(hit)
        before = np.concatenate([[0], np.cumsum(counts)[:-1]])
        found = counts > 0
        rows = np.full(len(self), -1, np.int64)
        rows[found] = first[before[found]]
        return counts, rows


def open_index(path: Path) -> ShardIndex:
    """The kept index of the shard if it still fits, else a new one. Raises DataError with all that is wrong in it."""
    try:
        return _load(path) or _keep(build_index(path))
    except OSError as error:
        raise DataError.listing([Problem(str(path), error.strerror or str(error))]) from error


def build_index(path: Path) -> ShardIndex:
    """Reads the whole shard once. Raises DataError, OSError."""
    with path.open("rb", buffering=_CHUNK) as file:
        before = os.fstat(file.fileno())
        found = _Found()
        try:
            _refuse_other_files(file, before.st_size)
            for member in tar.walk(file, before.st_size):
                found.add(member, file)
        except tar.TarError as error:
            found.problems.append((error.offset, error.reason))
        after = os.fstat(file.fileno())
    if not found.groups and not found.problems:
        found.problems.append((0, "holds no sample"))
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        found.problems.append((0, "changed while it was read"))
    if found.problems:
        raise DataError.listing([Problem(str(path), reason, offset) for offset, reason in found.problems])
    return found.index(path, before)


@dataclass
class _Found:
    """What a walk has seen so far."""

    groups: dict[str, dict[str, tuple[int, ...]]] = field(default_factory=dict)
    extensions: dict[str, int] = field(default_factory=dict)
    problems: list[tuple[int, str]] = field(default_factory=list)
    num_ignored: int = 0
    digest: hashlib._Hash = field(default_factory=hashlib.sha256)

    def add(self, member: tar.Member, file: BinaryIO) -> None:
        match = _KEY.fullmatch(member.name)
        if not member.regular or not match:
            self.num_ignored += 1
            return
        extension = match["ext"].lower()
        group = self.groups.setdefault(match["key"], {})
        if extension in group:
            first = group[extension][1]
            self.problems.append((member.header, f"member {member.name!r} again, first at byte {first}"))
            return
        crc, (width, height) = _contents(file, member, extension)
        number = self.extensions.setdefault(extension, len(self.extensions))
        group[extension] = (number, member.offset, member.size, crc, width, height)
        self.digest.update(json.dumps([member.name, member.size, crc]).encode())

    def index(self, path: Path, stat: os.stat_result) -> ShardIndex:
        keys = [key.encode() for key in self.groups]
        rows = [row for group in self.groups.values() for row in group.values()]
        return ShardIndex(
            path=str(path),
            file_size=stat.st_size,
            mtime_ns=stat.st_mtime_ns,
            digest=self.digest.hexdigest(),
            num_ignored=self.num_ignored,
            extensions=list(self.extensions),
            keys=np.frombuffer(b"".join(keys), np.uint8),
            key_ends=np.cumsum([len(key) for key in keys], dtype=np.int64),
            starts=np.cumsum([0, *map(len, self.groups.values())], dtype=np.int64),
            members=np.array(rows, MEMBER),
        )


def _contents(file: BinaryIO, member: tar.Member, extension: str) -> tuple[int, tuple[int, int]]:
    """Checksum, and (width, height) of an image, (0, 0) where that cannot be read."""
    file.seek(member.offset)
    if extension in IMAGE_EXTENSIONS and member.size <= MAX_BYTES:
        data = file.read(member.size)
        try:
            return zlib.crc32(data), image_size(data)
        except ImageError:
            return zlib.crc32(data), (0, 0)
    crc, left = 0, member.size
    while left and (chunk := file.read(min(left, _CHUNK))):
        crc, left = zlib.crc32(chunk, crc), left - len(chunk)
    return crc, (0, 0)


def _refuse_other_files(file: BinaryIO, size: int) -> None:
    head = file.read(16)
    if size == 0:
        raise tar.TarError(0, "empty file")
    for magic, name in _MAGIC.items():
        if head.startswith(magic):
            raise tar.TarError(0, f"compressed with {name}: decompress it, samples are read by their place in the file")
    if head.lstrip().startswith(b"<"):
        raise tar.TarError(0, f"not a tar: starts with {head.lstrip().decode('ascii', 'replace')!r}")


def _places(path: Path) -> list[Path]:
    beside = path.with_name(path.name + ".index.npz")
    name = hashlib.sha256(os.path.abspath(path).encode()).hexdigest()
    return [beside, cache_folder() / "index" / f"{name}.npz"]


def _load(path: Path) -> ShardIndex | None:
    stat = path.stat()
    for place in _places(path):
        try:
            with np.load(place, allow_pickle=False) as file:
                arrays = dict(file)
            meta = json.loads(arrays.pop("meta").tobytes())
            if (meta.pop("format"), meta["file_size"], meta["mtime_ns"]) == (FORMAT, stat.st_size, stat.st_mtime_ns):
                return ShardIndex(path=str(path), **meta, **arrays)
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error):
            continue  # absent, damaged or of another time: it is only a copy of what the shard says
    return None


def _keep(index: ShardIndex) -> ShardIndex:
    """Beside the shard, else in the cache folder; where neither can be written the next start reads the shard again."""
    names = ("file_size", "mtime_ns", "digest", "num_ignored", "extensions")
    meta = json.dumps({"format": FORMAT} | {name: getattr(index, name) for name in names}).encode()
    for place in _places(Path(index.path)):
        try:
            with atomic_write(place) as file:
                np.savez(
                    file,
                    meta=np.frombuffer(meta, np.uint8),
                    keys=index.keys,
                    key_ends=index.key_ends,
                    starts=index.starts,
                    members=index.members,
                )
            break
        except OSError:
            continue
    return index
