"""Read a whole shard and make its index. For a faulty shard this is an index of the intact samples, and problems.

Members are grouped by WebDataset's rule: the key is the path up to the first dot of its last part.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from contextlib import suppress
from dataclasses import dataclass, field
from typing import BinaryIO

import numpy as np
from isal.isal_zlib import crc32

from diffusion_train.data.image.decode import IMAGE_EXTENSIONS
from diffusion_train.data.image.header import MAX_BYTES, ImageError
from diffusion_train.data.image.profile import profile_use
from diffusion_train.data.image.read_header import image_header
from diffusion_train.data.shard import tar
from diffusion_train.data.shard.index import MEMBER, ShardIndex, Traits
from diffusion_train.data.shard.problem import Problem
from diffusion_train.data.storage.base import Stat, Storage
from diffusion_train.data.storage.by_scheme import StorageByScheme
from diffusion_train.data.storage.local import local_error
from diffusion_train.data.storage.shard_file import shard_file
from diffusion_train.data.storage.urls import is_local, local_path
from diffusion_train.utils.redact import redact_url

_KEY = re.compile(r"(?P<key>(?:.*/)?[^./]+)\.(?P<ext>[^/]*)", re.DOTALL)
_CHUNK = 1 << 20
_Row = tuple[int, int, int, int, int, int, bytes, int]  # of MEMBER
_Looks = tuple[int, int, int]  # width, height and traits of an image; 0 if they cannot be read
_MAX_JSON = 1 << 20
_COMPRESSED = "compressed-shard", "compressed with {}: decompress it, samples are read by their position in the file"
_OTHER = "not-a-tar", "not a tar but {}"
_FORMATS = {  # by their first bytes
    b"\x1f\x8b": ("gzip", *_COMPRESSED),
    b"\x28\xb5\x2f\xfd": ("zstd", *_COMPRESSED),
    b"BZh": ("bzip2", *_COMPRESSED),
    b"\xfd7zXZ": ("xz", *_COMPRESSED),
    b"PK\x03\x04": ("a zip archive", *_OTHER),
    b"PAR1": ("a parquet file; make shards of it with diffusion-train prepare source=parquet", *_OTHER),
    b"\xff\xd8\xff": ("a JPEG image", *_OTHER),
    b"\x89PNG": ("a PNG image", *_OTHER),
}


def build_index(url: str | os.PathLike[str], storage: Storage | None = None) -> ShardIndex:
    """Read a shard once and return its index, with its faults in `problems`. Raises StorageError."""
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
        found.problem("empty-shard", "contains no sample", offset=0)
    if storage.stat(url) != stat:
        found.problem("changed-shard", "changed while it was read")
    return found.index(stat)


def _open(url: str, stat: Stat, storage: Storage) -> BinaryIO:
    if not is_local(url):
        return shard_file(storage, url, stat.version, stat.size)
    try:
        return open(local_path(url), "rb", _CHUNK)
    except OSError as error:
        raise local_error(url, error) from error


@dataclass
class _Found:
    """What has been read of a shard so far."""

    url: str
    groups: dict[str, dict[str, _Row]] = field(default_factory=dict)
    extensions: dict[str, int] = field(default_factory=dict)
    license_of: dict[str, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    ambiguous: set[str] = field(
        default_factory=set
    )  # keys with two members of one name, of which the right one is unknown
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
            detail = f"a second member {member.name!r}; the first is at byte {group[extension][1]}"
            self.problem("duplicate-member", detail, key, member.header)
            self.ambiguous.add(key)
            return
        crc, digest, (width, height, traits) = self._contents(file, member, key, extension)
        number = self.extensions.setdefault(extension, len(self.extensions))
        group[extension] = (number, member.offset, member.size, crc, width, height, digest, traits)
        self.digest.update(json.dumps([member.name, member.size, crc]).encode())

    def problem(self, rule: str, detail: str, key: str | None = None, offset: int | None = None) -> None:
        self.problems.append(Problem(rule, redact_url(self.url), detail, key, offset))

    def _contents(self, file: BinaryIO, member: tar.Member, key: str, extension: str) -> tuple[int, bytes, _Looks]:
        """Return checksum and hash of a member, and how an image looks."""
        file.seek(member.offset)
        limits = {**dict.fromkeys(IMAGE_EXTENSIONS, MAX_BYTES), "json": _MAX_JSON}
        is_read = member.size <= limits.get(extension, -1)
        crc, digest, left, data = 0, hashlib.blake2b(digest_size=16), member.size, b""
        while left and (data := file.read(left if is_read else min(left, _CHUNK))):
            crc, left = crc32(data, crc), left - len(data)
            digest.update(data)
        if is_read and extension == "json" and (license := _license(data)):
            self.license_of[key] = license
        looks = 0, 0, 0
        if is_read and extension != "json":
            with suppress(ImageError):
                looks = _looks(data)
        return crc, digest.digest(), looks

    def index(self, stat: Stat) -> ShardIndex:
        groups = {key: group for key, group in self.groups.items() if key not in self.ambiguous}
        keys = [key.encode("utf-8", "surrogatepass") for key in groups]
        rows = [row for group in groups.values() for row in group.values()]
        licenses = list(dict.fromkeys(self.license_of.values()))
        index_of = {name: number for number, name in enumerate(licenses)}
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
            starts=np.cumsum([0, *map(len, groups.values())], dtype=np.int64),
            members=np.array(rows, MEMBER),
            license=np.array([index_of.get(self.license_of.get(key, ""), -1) for key in groups], np.int32),
        )


def _looks(data: bytes) -> _Looks:
    """Raises ImageError."""
    header = image_header(data)
    traits = {"": 0, "converted": Traits.CONVERTED, "ignored": Traits.PROFILE_IGNORED}[profile_use(header)]
    return header.width, header.height, traits | header.unusual_orientation * Traits.TURNED


def _license(data: bytes) -> str | None:
    try:
        facts = json.loads(data)
    except (ValueError, RecursionError):
        return None
    license = facts.get("license") if isinstance(facts, dict) else None
    return license if isinstance(license, str) else None


def _other_file(file: BinaryIO, size: int) -> tuple[str, str] | None:
    """Return (rule, detail) if the file is not a tar at all, else None."""
    head = file.read(16)
    if size == 0:
        return "empty-shard", "empty file"
    for magic, (kind, rule, detail) in _FORMATS.items():
        if head.startswith(magic):
            return rule, detail.format(kind)
    if head.lstrip().startswith(b"<"):
        return "not-a-tar", f"not a tar: starts with {head.lstrip().decode('ascii', 'replace')!r}"
    return None
