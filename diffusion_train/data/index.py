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
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from isal.isal_zlib import crc32
from numpy.typing import NDArray

from diffusion_train.data import tar
from diffusion_train.data.decode import IMAGE_EXTENSIONS
from diffusion_train.data.header import MAX_BYTES, ImageError, image_size
from diffusion_train.data.problem import Problem
from diffusion_train.data.storage.base import Stat, Storage
from diffusion_train.data.storage.by_scheme import StorageByScheme
from diffusion_train.data.storage.files import ShardFile, read_whole
from diffusion_train.data.storage.urls import is_local, local_path
from diffusion_train.utils.cache import atomic_write, cache_folder
from diffusion_train.utils.redact import redact_url

FORMAT = 2
MEMBER = np.dtype(
    [("ext", "<i4"), ("offset", "<i8"), ("size", "<i8"), ("crc", "<u4"), ("width", "<i4"), ("height", "<i4")]
)
SUFFIX = ".index.npz"
_KEY = re.compile(r"(?P<key>(?:.*/)?[^./]+)\.(?P<ext>[^/]*)", re.DOTALL)
_CHUNK = 1 << 20
_MAX_JSON = 1 << 20
_MAX_SIDECAR = 1 << 32
_MAGIC = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bzip2", b"\xfd7zXZ": "xz"}
_ARRAYS = ("keys", "key_ends", "starts", "members", "license")


@dataclass(frozen=True, eq=False)
class ShardIndex:
    """Samples 0..n-1 of one shard; the members of sample i are `members[starts[i]:starts[i + 1]]`.

    `license` (n,) is a place in `licenses`, -1 where a sample names none. `problems` are what was left out.
    """

    url: str
    size: int
    version: str
    digest: str
    num_ignored: int
    extensions: list[str]
    licenses: list[str]
    problems: list[Problem]
    keys: NDArray[np.uint8]
    key_ends: NDArray[np.int64]
    starts: NDArray[np.int64]
    members: NDArray[np.void]
    license: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.key_ends)

    def key(self, sample: int) -> str:
        start = self.key_ends[sample - 1] if sample else 0
        return self.keys[start : self.key_ends[sample]].tobytes().decode()

    def sample(self, sample: int) -> dict[str, tuple[int, int]]:
        """{extension: (offset, size)}"""
        rows = self.members[self.starts[sample] : self.starts[sample + 1]]
        return {self.extensions[row["ext"]]: (int(row["offset"]), int(row["size"])) for row in rows}


def open_index(url: str | os.PathLike[str], storage: Storage | None = None) -> ShardIndex:
    """The kept index of the shard if it still fits, else a new one, kept. Raises StorageError."""
    url, storage = os.fspath(url), storage or StorageByScheme()
    stat = storage.stat(url)
    return load_index(url, stat, storage) or keep_index(build_index(url, storage))


def build_index(url: str | os.PathLike[str], storage: Storage | None = None) -> ShardIndex:
    """Reads the whole shard once; what is faulty is told by its `problems`. Raises StorageError."""
    url, storage = os.fspath(url), storage or StorageByScheme()
    stat = storage.stat(url)
    found = _Found(url)
    with _open(url, stat, storage) as file:
        if wrong := _other_file(file, stat.size):
            found.problem(*wrong, offset=0)
        else:
            faults: list[tar.TarError] = []
            for member in tar.walk(file, stat.size, faults):
                found.add(member, file)
            for fault in faults:
                found.problem(fault.rule, fault.reason, offset=fault.offset)
    if not found.groups and not found.problems:
        found.problem("empty-shard", "holds no sample", offset=0)
    if storage.stat(url) != stat:
        found.problem("changed-shard", "changed while it was read")
    return found.index(stat)


def _open(url: str, stat: Stat, storage: Storage) -> BinaryIO:
    return open(local_path(url), "rb", _CHUNK) if is_local(url) else ShardFile(storage, url, stat.version, stat.size)


@dataclass
class _Found:
    """What a walk has seen so far."""

    url: str
    groups: dict[str, dict[str, tuple[int, ...]]] = field(default_factory=dict)
    extensions: dict[str, int] = field(default_factory=dict)
    license_of: dict[str, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    num_ignored: int = 0
    digest: hashlib._Hash = field(default_factory=hashlib.sha256)

    def add(self, member: tar.Member, file: BinaryIO) -> None:
        match = _KEY.fullmatch(member.name)
        if not member.regular or not match:
            self.num_ignored += 1
            return
        key, extension = match["key"], match["ext"].lower()
        group = self.groups.setdefault(key, {})
        if extension in group:
            detail = f"member {member.name!r} again, first at byte {group[extension][1]}"
            self.problem("duplicate-member", detail, key, member.header)
            return
        crc, width, height = self._contents(file, member, key, extension)
        number = self.extensions.setdefault(extension, len(self.extensions))
        group[extension] = (number, member.offset, member.size, crc, width, height)
        self.digest.update(json.dumps([member.name, member.size, crc]).encode())

    def problem(self, rule: str, detail: str, key: str | None = None, offset: int | None = None) -> None:
        self.problems.append(Problem(rule, redact_url(self.url), detail, key, offset))

    def _contents(self, file: BinaryIO, member: tar.Member, key: str, extension: str) -> tuple[int, int, int]:
        """Checksum, and width and height of an image, 0 where they cannot be read."""
        file.seek(member.offset)
        if extension in IMAGE_EXTENSIONS and member.size <= MAX_BYTES:
            data = file.read(member.size)
            try:
                return crc32(data), *image_size(data)
            except ImageError:
                return crc32(data), 0, 0
        if extension == "json" and member.size <= _MAX_JSON:
            data = file.read(member.size)
            if license := _license(data):
                self.license_of[key] = license
            return crc32(data), 0, 0
        crc, left = 0, member.size
        while left and (chunk := file.read(min(left, _CHUNK))):
            crc, left = crc32(chunk, crc), left - len(chunk)
        return crc, 0, 0

    def index(self, stat: Stat) -> ShardIndex:
        keys = [key.encode("utf-8", "surrogatepass") for key in self.groups]
        rows = [row for group in self.groups.values() for row in group.values()]
        licenses = list(dict.fromkeys(self.license_of.values()))
        place = {name: number for number, name in enumerate(licenses)}
        return ShardIndex(
            url=self.url,
            size=stat.size,
            version=stat.version,
            digest=self.digest.hexdigest(),
            num_ignored=self.num_ignored,
            extensions=list(self.extensions),
            licenses=licenses,
            problems=self.problems,
            keys=np.frombuffer(b"".join(keys), np.uint8),
            key_ends=np.cumsum([len(key) for key in keys], dtype=np.int64),
            starts=np.cumsum([0, *map(len, self.groups.values())], dtype=np.int64),
            members=np.array(rows, MEMBER),
            license=np.array([place.get(self.license_of.get(key, ""), -1) for key in self.groups], np.int32),
        )


def _license(data: bytes) -> str | None:
    try:
        facts = json.loads(data)
    except (ValueError, RecursionError):
        return None
    license = facts.get("license") if isinstance(facts, dict) else None
    return license if isinstance(license, str) else None


def _other_file(file: BinaryIO, size: int) -> tuple[str, str] | None:
    """(rule, detail) of a file that is no tar at all."""
    head = file.read(16)
    if size == 0:
        return "empty-shard", "empty file"
    for magic, kind in _MAGIC.items():
        if head.startswith(magic):
            detail = f"compressed with {kind}: decompress it, samples are read by their place in the file"
            return "compressed-shard", detail
    if head.lstrip().startswith(b"<"):
        return "not-a-tar", f"not a tar: starts with {head.lstrip().decode('ascii', 'replace')!r}"
    return None


def sidecars(url: str) -> list[str]:
    """Where a shard's index is kept, the first that can be read or written counts: beside it, or in the cache folder."""
    plain = os.path.abspath(local_path(url)) if is_local(url) else url.split("?")[0]
    name = hashlib.sha256(plain.encode()).hexdigest()
    beside = plain + SUFFIX + url[len(plain) :] if not is_local(url) else plain + SUFFIX
    return [beside, str(cache_folder() / "index" / f"{name}.npz")]


def load_index(url: str, stat: Stat, storage: Storage) -> ShardIndex | None:
    """A kept index that fits the shard as it is now.

    One beside a remote shard, uploaded with it, cannot know the store's version and fits by size; every sample's
    checksum is compared when it is read.
    """
    for place in sidecars(url):
        index = _loaded(place, url, stat, storage)
        if index is not None:
            return index
    return None


def _loaded(place: str, url: str, stat: Stat, storage: Storage) -> ShardIndex | None:
    data = Path(place).read_bytes() if is_local(place) and Path(place).is_file() else None
    if not is_local(place):
        data = read_whole(storage, place, _MAX_SIDECAR)
    if data is None:
        return None
    try:
        with np.load(BytesIO(data), allow_pickle=False) as file:
            arrays = {name: file[name] for name in _ARRAYS}
            meta = json.loads(file["meta"].tobytes())
        fits = meta.pop("format") == FORMAT and meta["size"] == stat.size
        if not fits or (is_local(place) and meta["version"] != stat.version):
            return None
        problems = [Problem(**{**facts, "shard": redact_url(url)}) for facts in meta.pop("problems")]
        return ShardIndex(**{**meta, "url": url, "version": stat.version, "problems": problems}, **arrays)
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error):
        return None  # damaged or of another time: it is only a copy of what the shard says


def keep_index(index: ShardIndex) -> ShardIndex:
    """Beside the shard, else in the cache folder; where neither can be written the next start reads the shard again."""
    names = ("size", "version", "digest", "num_ignored", "extensions", "licenses")
    facts: dict[str, Any] = {"format": FORMAT} | {name: getattr(index, name) for name in names}
    facts["problems"] = [vars(problem) for problem in index.problems]
    meta = np.frombuffer(json.dumps(facts).encode(), np.uint8)
    for place in filter(is_local, sidecars(index.url)):
        try:
            with atomic_write(Path(place)) as file:
                np.savez(file, meta=meta, **{name: getattr(index, name) for name in _ARRAYS})
            break
        except OSError:
            continue
    return index
