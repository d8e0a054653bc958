"""What a source of samples is: names in a fixed order, and for each a way to read it in another process."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, Protocol

from diffusion_train.data.caption.table_rows import json_object
from diffusion_train.data.image.header import MAX_BYTES

STATE = 8
_NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EACCES, errno.EPERM)


class LeftOut(Exception):
    """A sample that is not taken over, or `count` of them. `reason` is one of REASONS."""

    def __init__(self, reason: str, detail: str = "", count: int = 1) -> None:
        super().__init__(reason, detail, count)
        self.reason, self.detail, self.count = reason, detail, count

    @property
    def is_fault(self) -> bool:
        return REASONS[self.reason].is_fault


class Reason(NamedTuple):
    """`is_fault`: of the data, not something that was asked for."""

    meaning: str
    is_fault: bool = True


REASONS = {
    "unreadable": Reason("the file is missing or cannot be read"),
    "undecodable": Reason("damaged, or no image at all"),
    "unknown-format": Reason("an image format that is not read"),
    "too-many-bytes": Reason(f"a file of more than {MAX_BYTES >> 20} MiB"),
    "no-caption": Reason(
        "no caption, or only white space (source.captions and source.columns.caption say where captions stand; "
        "prepare.missing_caption=empty takes images without)"
    ),
    "bad-metadata": Reason("its metadata is no JSON object"),
    "bad-row": Reason("a row that does not fit its table"),
    "named-twice": Reason("a file or member that was named before; the first one counts"),
    "no-image": Reason("a caption or a row without an image"),
    "torn-shard": Reason("a damaged tar: what comes after the damage is lost"),
    "address": Reason("an address where a file is expected; nothing is downloaded, img2dataset does that"),
    "not-downloaded": Reason("img2dataset could not download it", False),
    "not-a-sample": Reason("neither image nor caption", False),
    "too-small": Reason("a side shorter than prepare.min_side", False),
    "too-narrow": Reason("longer than prepare.max_aspect allows", False),
    "licence": Reason("its licence is not among allowed_licenses", False),
}


class Record(NamedTuple):
    """A sample as it was found; `facts` is its metadata."""

    image: bytes
    caption: str | None
    facts: dict[str, Any]


class FileState(NamedTuple):
    """`size` in bytes, -1 where there is none; `time` of the last change in nanoseconds."""

    name: str
    size: int
    time: int


class Entry(NamedTuple):
    """`name` is what its owner calls it: a path below the source, or a file and a row. `read` can be pickled.

    `key` is what the sample is to be called, by default its name. The sample is read from `files` and from
    tables and archives, whose state is that from before they were opened.
    """

    name: str
    read: Callable[[], Record] | LeftOut
    key: str = ""
    files: Sequence[Path] = ()
    opened: Sequence[FileState] = ()

    def state(self) -> bytes:
        """STATE bytes that are others once the entry is: a hash of its name and its files' names, sizes and times."""
        facts = [self.name, *self.opened, *map(file_state, self.files)]
        return hashlib.blake2b(json.dumps(facts).encode(), digest_size=STATE).digest()


class Source(Protocol):
    def entries(self, skip: int = 0) -> Iterator[Entry]:
        """All of them, in an order that the same data always have. The first `skip` will not be read."""

    def total(self) -> int:
        """How many entries there are."""


def refuse(where: str, mistakes: Mapping[str, object]) -> None:
    """ValueError with each of the mistakes that is made, as `where`.mistake."""
    if made := [f"{where}.{mistake}" for mistake, is_made in mistakes.items() if is_made]:
        raise ValueError("\n".join(made))


def require(module: str, extra: str = "demo") -> ModuleType:
    """ValueError with the command that installs what is missing."""
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        name = module.partition(".")[0]
        raise ValueError(f'{name} is not installed; run: pip install "diffusion_train[{extra}]"') from error


def file_state(path: Path) -> FileState:
    """OSError where the storage fails, which says nothing of the file."""
    try:
        facts = os.stat(path)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        if getattr(error, "errno", errno.ENOENT) not in _NOT_THERE:
            raise
        return FileState(path.name, -1, -1)
    return FileState(path.name, facts.st_size, facts.st_mtime_ns)


def read_file(path: Path, most: int = MAX_BYTES) -> bytes:
    """Raises LeftOut. Only regular files: reading a pipe or a device might never end."""
    try:
        facts = os.stat(path)
        if not stat.S_ISREG(facts.st_mode):
            raise LeftOut("unreadable", "not a regular file")
        if facts.st_size > most:
            raise LeftOut("too-many-bytes", f"{facts.st_size} bytes")
        return path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise LeftOut("unreadable", getattr(error, "strerror", None) or str(error)) from None


def parse_metadata(data: bytes) -> dict[str, Any]:
    """One JSON object. Raises LeftOut."""
    try:
        return json_object(data)
    except ValueError as error:
        raise LeftOut("bad-metadata", str(error)[:200]) from None
