"""The contract of a source of samples: entries in a fixed order, each of which another process can read."""

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

from diffusion_train.data.caption.fault import CaptionError, caption_text
from diffusion_train.data.caption.table_rows import json_object
from diffusion_train.data.image.header import MAX_BYTES
from diffusion_train.utils.text import decode_text

STATE = 8
_NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EACCES, errno.EPERM)


class LeftOut(Exception):
    """Raised for a sample that is left out, or for `count` of them. `reason` is a key of REASONS."""

    def __init__(self, reason: str, detail: str = "", count: int = 1) -> None:
        super().__init__(reason, detail, count)
        self.reason, self.detail, self.count = reason, detail, count

    @property
    def is_fault(self) -> bool:
        return REASONS[self.reason].is_fault


class Reason(NamedTuple):
    """A reason to leave out a sample. `is_fault` if it is a fault of the data, and not the effect of a setting."""

    meaning: str
    is_fault: bool = True


REASONS = {
    "unreadable": Reason("a file that is missing or cannot be read"),
    "undecodable": Reason("a file that is damaged or not an image"),
    "unknown-format": Reason("an unsupported image format"),
    "outside-reference": Reason("an SVG that refers to something outside itself"),
    "too-many-bytes": Reason(f"a file of more than {MAX_BYTES >> 20} MiB (TIFF and BMP: 256 MiB, SVG: 16 MiB)"),
    "too-many-pixels": Reason("more than 8192 x 8192 pixels; prepare.max_side=1024 reads a JPEG of that size, shrunk"),
    "no-caption": Reason(
        "no caption, or only white space (source.captions and source.columns.caption set where captions are; "
        "prepare.missing_caption=empty keeps images without)"
    ),
    "not-utf8": Reason("a caption that is not UTF-8; source.encoding names another encoding, such as cp1252"),
    "bad-caption": Reason("a caption that is neither text nor a whole number"),
    "bad-metadata": Reason("metadata that is not a JSON object"),
    "bad-row": Reason("a row that does not fit its table"),
    "named-twice": Reason("a file or member that was listed before; the first one is used"),
    "no-image": Reason("a caption or a row without an image"),
    "unused-image": Reason("an image in a tar that no sample uses: keys end at the first dot, rename it or convert it"),
    "torn-shard": Reason("a damaged tar: what comes after the damage is lost"),
    "address": Reason("an address instead of a file; prepare downloads nothing, use img2dataset for that"),
    "not-downloaded": Reason("img2dataset could not download it", False),
    "not-a-sample": Reason("neither image nor caption", False),
    "too-small": Reason("a side shorter than prepare.min_side", False),
    "too-narrow": Reason("an aspect ratio above prepare.max_aspect", False),
    "licence": Reason("a licence that is not in allowed_licenses", False),
    "expired-license": Reason("a licence that has expired; prepare.invalid_rights=keep uses the image", False),
    "missing-release": Reason("people without a release; prepare.invalid_rights=keep uses the image", False),
}


class Record(NamedTuple):
    """A sample as the source has it; `facts` is its metadata."""

    image: bytes
    caption: str | None
    facts: dict[str, Any]


class FileState(NamedTuple):
    """The state of a file: `size` in bytes, `time` of the last change in nanoseconds; both -1 if it does not exist."""

    name: str
    size: int
    time: int


class Entry(NamedTuple):
    """An entry of a source. `name` identifies it for the user: a path below the source, or a file and a row.

    `read`, which can be pickled, returns the sample or raises LeftOut. `key` is the wanted key of the sample, by
    default its name. It is read from `files` and from tables and archives, whose states before opening are in `opened`.
    """

    name: str
    read: Callable[[], Record] | LeftOut
    key: str = ""
    files: Sequence[Path] = ()
    opened: Sequence[FileState] = ()

    def state(self) -> bytes:
        """Return STATE bytes that change with the entry: a hash of its name and its files' names, sizes and times."""
        facts = [self.name, *self.opened, *map(file_state, self.files)]
        return hashlib.blake2b(json.dumps(facts).encode(), digest_size=STATE).digest()


class Source(Protocol):
    """A collection of samples that can be prepared."""

    def entries(self, skip: int = 0) -> Iterator[Entry]:
        """Yield all entries, for the same data always in the same order. `read` of the first `skip` is not called."""

    def total(self) -> int:
        """Return the number of entries."""


def refuse(where: str, mistakes: Mapping[str, object]) -> None:
    """Raises ValueError with a line `where`.mistake for each mistake whose value is true."""
    if made := [f"{where}.{mistake}" for mistake, is_made in mistakes.items() if is_made]:
        raise ValueError("\n".join(made))


def require(module: str, extra: str = "demo") -> ModuleType:
    """Import a module. Raises ValueError with the command that installs it if it is missing."""
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        name = module.partition(".")[0]
        raise ValueError(f'{name} is not installed; run: pip install "diffusion_train[{extra}]"') from error


def file_state(path: Path) -> FileState:
    """Return the state of a file. Raises OSError if the storage fails, so that nothing is known about the file."""
    try:
        facts = os.stat(path)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        if getattr(error, "errno", errno.ENOENT) not in _NOT_THERE:
            raise
        return FileState(path.name, -1, -1)
    return FileState(path.name, facts.st_size, facts.st_mtime_ns)


def read_file(path: Path, most: int = MAX_BYTES) -> bytes:
    """Read a regular file of at most `most` bytes. Raises LeftOut otherwise: reading a pipe might never end."""
    try:
        facts = os.stat(path)
        if not stat.S_ISREG(facts.st_mode):
            raise LeftOut("unreadable", "not a regular file")
        if facts.st_size > most:
            raise LeftOut("too-many-bytes", f"{facts.st_size} bytes")
        return path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise LeftOut("unreadable", getattr(error, "strerror", None) or str(error)) from None


def caption_from(value: object) -> str | None:
    """Return the caption that a value of a table or of JSON stands for, None for none. Raises LeftOut."""
    try:
        return caption_text(value)
    except CaptionError as error:
        raise LeftOut("bad-caption", str(error)) from None


def check_encoding(encoding: str | None) -> None:
    """Raises ValueError for an encoding that Python does not know."""
    try:
        "".encode(encoding or "utf-8")
    except LookupError:
        raise ValueError(f"source.encoding={encoding}: unknown; use null for UTF-8, or a name such as cp1252") from None


def parse_metadata(data: bytes, encoding: str | None = None) -> dict[str, Any]:
    """Parse a JSON object. Raises LeftOut for anything else."""
    try:
        return json_object(decode_text(data, encoding))
    except ValueError as error:
        raise LeftOut("bad-metadata", str(error)[:200]) from None
