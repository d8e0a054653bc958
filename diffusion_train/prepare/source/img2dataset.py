"""The output of img2dataset (https://github.com/rom1504/img2dataset), and any other WebDataset tars.

Its webdataset format (00000.tar) and its files format (00000/000000000.jpg) are read. 00000_stats.json beside a shard
says how many downloads failed and why.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import BinaryIO

from diffusion_train.data.caption.table_rows import MAX_METADATA
from diffusion_train.data.image.decode import is_image_name
from diffusion_train.data.shard import tar
from diffusion_train.prepare.image.formats import READABLE, most_bytes
from diffusion_train.prepare.source.base import (
    Entry,
    LeftOut,
    Record,
    check_encoding,
    file_state,
    parse_metadata,
    read_file,
)
from diffusion_train.prepare.source.folder import Folder
from diffusion_train.utils.text import decode_text

Span = tuple[int, int]  # offset and size in a tar
Members = dict[str, Span]  # by extension
KEY = re.compile(r"(?P<key>(?:.*/)?[^./]+)\.(?P<ext>[^/]+)", re.DOTALL)


@dataclass(frozen=True)
class Img2dataset:
    """A folder that img2dataset wrote. The folder `ignore` is skipped.

    Raises ValueError if there is neither a tar nor a numbered folder.
    """

    path: str
    ignore: str | None = None
    encoding: str | None = None

    def __post_init__(self) -> None:
        check_encoding(self.encoding)
        if not Path(self.path).is_dir():
            raise ValueError(f"path={self.path}: no such folder")
        if not self._tars and not any(item.is_dir() and item.name.isdigit() for item in Path(self.path).iterdir()):
            has_parquet = any(Path(self.path).rglob("*.parquet"))
            hint = "; for its parquet format use source=parquet" if has_parquet else ""
            raise ValueError(f"path={self.path}: contains neither tars nor numbered folders of img2dataset{hint}")

    def total(self) -> int:
        return sum(1 for _ in self.entries())

    def entries(self, skip: int = 0) -> Iterator[Entry]:
        for path in self._tars:
            yield from _samples(path, path.relative_to(self.path).as_posix(), self.encoding)
        if not self._tars:
            for entry in Folder(self.path, captions=("txt",), ignore=self.ignore, encoding=self.encoding).entries():
                if not entry.name.endswith(("_stats.json", ".parquet")):
                    yield entry
        for stats in sorted(Path(self.path).rglob("*_stats.json")):
            yield from _failures(stats, stats.relative_to(self.path).as_posix())

    @cached_property
    def _tars(self) -> list[Path]:
        ignored = Path(self.ignore).resolve() if self.ignore else None
        return sorted(path for path in Path(self.path).rglob("*.tar") if ignored not in path.resolve().parents)


def _samples(path: Path, name: str, encoding: str | None) -> Iterator[Entry]:
    """Yield the entries of one tar; members are grouped by key, wherever they are in the file.

    Samples next to damage are left out, because they may lack a member.
    """
    found: dict[str, Members] = {}
    left_out: list[Entry] = []
    faults: list[tar.TarError] = []
    num_faults, last = 0, ""
    lost = set()
    state = file_state(path)
    with path.open("rb", buffering=1 << 16) as file:
        for member in tar.walk(file, os.fstat(file.fileno()).st_size, faults):
            match = KEY.fullmatch(member.name)
            if not member.regular or not match:
                left_out.append(
                    Entry(f"{name}: {member.name}", LeftOut("not-a-sample", "must be a regular file with a key"))
                )
                continue
            key, extension = match["key"], match["ext"].lower()
            if len(faults) > num_faults:
                lost |= {key, last}
            num_faults, last = len(faults), key
            members = found.setdefault(key, {})
            if extension in members:
                left_out.append(Entry(f"{name}: {member.name}", LeftOut("named-twice")))
            members.setdefault(extension, (member.offset, member.size))
    if len(faults) > num_faults:
        lost.add(last)
    for key, members in found.items():
        if key not in lost:
            yield Entry(f"{name}: {key}", partial(read_members, path, members, encoding), key, opened=[state])
        unused = (kind for kind in members if kind not in READABLE and is_image_name(kind))
        left_out += [Entry(f"{name}: {key}.{kind}", LeftOut("unused-image")) for kind in unused]
    yield from left_out
    yield from (Entry(name, LeftOut("torn-shard", str(fault)[:200])) for fault in faults)


def read_members(path: Path, members: Members, encoding: str | None = None) -> Record:
    """Read a sample from the members of a tar. Raises LeftOut."""
    images = [kind for kind in members if kind in READABLE]
    if len(images) != 1:
        raise LeftOut(
            "no-image", f"a sample must have one image, got {len(images)} among the members {', '.join(members)}"[:200]
        )
    try:
        with path.open("rb") as file:
            facts = parse_metadata(_read(file, members["json"], MAX_METADATA), encoding) if "json" in members else {}
            if facts.get("status", "success") != "success":
                raise LeftOut("not-downloaded", str(facts.get("error_message"))[:200])
            caption = (
                decode_text(_read(file, members["txt"], MAX_METADATA), encoding).strip() if "txt" in members else None
            )
            return Record(_read(file, members[images[0]], most_bytes(images[0])), caption, facts)
    except OSError as error:
        raise LeftOut("unreadable", error.strerror or str(error)) from None


def _read(file: BinaryIO, span: Span, most: int) -> bytes:
    offset, size = span
    if size > most:
        raise LeftOut("too-many-bytes", f"{size} bytes")
    file.seek(offset)
    return file.read(size)


def _failures(stats: Path, name: str) -> Iterator[Entry]:
    state = file_state(stats)
    try:
        counts = parse_metadata(read_file(stats)).get("status_dict")
    except LeftOut as fault:
        yield Entry(name, fault)
        return
    for status, count in sorted(counts.items()) if isinstance(counts, dict) else ():
        if status != "success" and isinstance(count, int):
            yield Entry(name, LeftOut("not-downloaded", status[:200], count), opened=[state])
