"""Iterate over the members of an untrusted tar file; header checksums, sizes and the end of the archive are verified.

Formats: ustar and pax (POSIX.1-2017, "pax Interchange Format"), GNU long names (GNU tar manual, "Basic Tar Format").
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from tarfile import (
    GNUTYPE_LONGLINK,
    GNUTYPE_LONGNAME,
    GNUTYPE_SPARSE,
    SOLARIS_XHDTYPE,
    XGLTYPE,
    XHDTYPE,
    HeaderError,
    TarInfo,
)
from typing import BinaryIO

BLOCK = 512
_ZERO = bytes(BLOCK)
_MAX_EXTENDED = 1 << 20  # bytes of a long name or pax header; real ones are much smaller
_WITHOUT_DATA = b"123456"  # links, devices, directories, pipes; their size field is ignored
_EXTENDED = b"".join([XHDTYPE, SOLARIS_XHDTYPE, XGLTYPE, GNUTYPE_LONGNAME, GNUTYPE_LONGLINK])


class TarError(ValueError):
    """A tar that cannot be trusted from byte `offset` on; `rule` is the kind of fault."""

    def __init__(self, offset: int, reason: str, rule: str = "damaged-header") -> None:
        super().__init__(f"byte {offset}: {reason}")
        self.offset = offset
        self.reason = reason
        self.rule = rule


@dataclass(frozen=True)
class Member:
    """A member of a tar. `header` and `offset` are the bytes at which its (last) header and its contents start."""

    name: str
    header: int
    offset: int
    size: int
    regular: bool


def walk(file: BinaryIO, file_size: int, faults: list[TarError] | None = None) -> Iterator[Member]:
    """Yield the members in the order of the file. Raises TarError after the members before the faulty byte.

    If `faults` is a list, errors are appended to it, and reading continues at the next valid header. The first member
    after such a gap is left out, because its name may be in an extended header that was lost; this does not apply to
    tars that were joined without a gap.
    """
    offset: int | None = 0
    trusted = True
    while offset is not None:
        try:
            for member in _walk(file, offset, file_size):
                if trusted:
                    yield member
                trusted = True
            return
        except TarError as error:
            if faults is None:
                raise
            faults.append(error)
            faulty = error.offset // BLOCK * BLOCK
            joined = error.rule == "trailing-data"
            offset = _next_header(file, faulty if joined else faulty + BLOCK, file_size)
            trusted = joined and offset == faulty


def _walk(file: BinaryIO, offset: int, file_size: int) -> Iterator[Member]:
    pax_global: dict[str, str] = {}
    pax: dict[str, str] = {}
    while (block := _read(file, offset, file_size, BLOCK, "header")) != _ZERO:
        header = _parse(block, offset)
        data = offset + BLOCK
        if header.type in _EXTENDED:
            if header.size > _MAX_EXTENDED:
                raise TarError(offset, f"an extended header must have at most {_MAX_EXTENDED} bytes, got {header.size}")
            payload = _read(file, data, file_size, header.size, "extended header")
            if header.type == XGLTYPE:
                pax_global |= _parse_pax(payload, data)
            elif header.type in XHDTYPE + SOLARIS_XHDTYPE:
                pax |= _parse_pax(payload, data)
            elif header.type == GNUTYPE_LONGNAME:
                pax["path"] = _text(payload.split(b"\0", 1)[0])
            offset = _after(data, header.size)
            continue
        described = {key: value for key, value in (pax_global | pax).items() if value}  # an empty value removes a key
        member = _member(header, offset, data, described)
        if header.type == GNUTYPE_SPARSE:
            member, data = _skip_sparse_map(file, member, block, file_size)
        if data + member.size > file_size:
            left = max(file_size - data, 0)
            raise TarError(
                offset,
                f"member {member.name!r} needs {member.size} bytes, {left} are left: the file is truncated",
                "torn-shard",
            )
        yield member
        pax = {}
        offset = _after(data, member.size)
    if pax:
        raise TarError(offset, "no member follows an extended header")
    _verify_end(file, offset, file_size)


def _member(header: TarInfo, offset: int, data: int, pax: dict[str, str]) -> Member:
    name = pax.get("path", header.name)
    stated = pax.get("size", str(header.size))
    if not stated.isdecimal() or len(stated) > 20:
        raise TarError(offset, f"the pax size {stated!r} is not a number")
    sparse = any(key.startswith("GNU.sparse") for key in pax)
    directory = name.endswith("/")
    size = 0 if header.type in _WITHOUT_DATA else int(stated)
    return Member(name, offset, data, size, header.isreg() and not sparse and not directory)


def _parse(block: bytes, offset: int) -> TarInfo:
    try:
        header = TarInfo.frombuf(block, "utf-8", "backslashreplace")
    except HeaderError:
        header = None
    if header is None or header.size < 0:
        detail = "the header has a wrong checksum or an invalid number: it is damaged, or this is not a tar"
        raise TarError(offset, detail)
    if block[257:263] != b"ustar\0":  # without POSIX's prefix; GNU's format stores times there
        header.name = _text(block[:100].split(b"\0", 1)[0])
    elif header.isdir():
        header.name += "/"  # frombuf removes it
    return header


def _parse_pax(payload: bytes, offset: int) -> dict[str, str]:
    """Parse records `length key=value\\n`; the length is that of the whole record."""
    records = {}
    at = 0
    while at < len(payload):
        digits = payload[at : at + 20].split(b" ", 1)[0]
        length = int(digits) if digits.isdigit() else 0
        record = payload[at : at + length]
        key, equals, value = record[len(digits) + 1 : -1].partition(b"=")
        if len(record) < length or not record.endswith(b"\n") or not equals:
            raise TarError(offset + at, "damaged pax header")
        records[_text(key)] = _text(value)
        at += length
    return records


def _skip_sparse_map(file: BinaryIO, member: Member, block: bytes, file_size: int) -> tuple[Member, int]:
    """Return a GNU sparse member and where its data start: its map may continue in further blocks before the data."""
    data = member.offset
    more = block[482]
    while more:
        more = _read(file, data, file_size, BLOCK, "sparse map")[504]
        data += BLOCK
    return Member(member.name, member.header, data, member.size, False), data


def _verify_end(file: BinaryIO, offset: int, file_size: int) -> None:
    """Check that two blocks of zeros follow, and then only zeros."""
    _read(file, offset, file_size, 2 * BLOCK, "end of the archive")
    file.seek(offset)
    while chunk := file.read(1 << 20):
        if rest := chunk.lstrip(b"\0"):
            first = file.tell() - len(rest)
            raise TarError(
                first, "data after the end of the archive: tars were joined, or this one is damaged", "trailing-data"
            )


def _read(file: BinaryIO, offset: int, file_size: int, size: int, what: str) -> bytes:
    file.seek(offset)
    data = file.read(size)
    if len(data) < size:
        reason = f"the file ends at byte {file_size}, where its {what} should be: it is truncated"
        raise TarError(min(offset, file_size), reason, "torn-shard")
    return data


def _next_header(file: BinaryIO, start: int, file_size: int) -> int | None:
    """Return the offset of the first valid ustar header from `start` (a multiple of BLOCK) on, or None."""
    file.seek(start)
    for offset in range(start, file_size, BLOCK):
        block = file.read(BLOCK)
        if block.startswith(b"ustar", 257):
            with suppress(TarError):
                _parse(block, offset)
                return offset
    return None


def _after(data: int, size: int) -> int:
    return data + -(-size // BLOCK) * BLOCK


def _text(name: bytes) -> str:
    return name.decode("utf-8", "backslashreplace")
