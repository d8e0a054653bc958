"""Walk the members of a tar file and believe nothing: header checksums, sizes and the end of the archive are verified.

Formats: ustar and pax (POSIX.1-2017, "pax Interchange Format"), GNU long names (GNU tar manual, "Basic Tar Format").
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

BLOCK = 512
_ZERO = bytes(BLOCK)
_SEARCHED = 1 << 20  # bytes looked through at once, a multiple of BLOCK
_MAX_EXTENDED = 1 << 20  # bytes of a long name or pax header; real ones are far below
_REGULAR = b"0\0" + b"7"
_WITHOUT_DATA = b"123456"  # links, devices, directories, pipes: whatever their size field says
_PAX = b"xX"
_PAX_GLOBAL = b"g"
_GNU_LONG_NAME = b"L"
_GNU_LONG_LINK = b"K"
_GNU_SPARSE = b"S"


class TarError(ValueError):
    """A tar that cannot be trusted from byte `offset` on; `rule` is the kind of fault."""

    def __init__(self, offset: int, reason: str, rule: str = "damaged-header") -> None:
        super().__init__(f"byte {offset}: {reason}")
        self.offset = offset
        self.reason = reason
        self.rule = rule


@dataclass(frozen=True)
class Member:
    """`header` and `offset` are the bytes where the member's (last) header and its contents start."""

    name: str
    header: int
    offset: int
    size: int
    regular: bool


@dataclass(frozen=True)
class _Header:
    name: str
    size: int
    type: bytes


def walk(file: BinaryIO, file_size: int, faults: list[TarError] | None = None) -> Iterator[Member]:
    """The members in the order of the file. Raises TarError once the members before the faulty byte are yielded.

    With a list for `faults` they are noted there, and the walk goes on at the next header that proves itself. The first
    member after such a gap is left out: its true name may stand in an extended header that was lost. Where tars were
    joined without a gap there is none to lose.
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
        if header.type in _PAX + _PAX_GLOBAL + _GNU_LONG_NAME + _GNU_LONG_LINK:
            payload = _extended(file, data, file_size, header.size)
            if header.type in _PAX_GLOBAL:
                pax_global |= _parse_pax(payload, data)
            elif header.type in _PAX:
                pax |= _parse_pax(payload, data)
            elif header.type == _GNU_LONG_NAME:
                pax["path"] = _text(payload.split(b"\0", 1)[0])
            offset = _after(data, header.size)
            continue
        described = {key: value for key, value in (pax_global | pax).items() if value}  # an empty value takes back
        member = _member(header, offset, data, described)
        if header.type == _GNU_SPARSE:
            member, data = _skip_sparse_map(file, member, block, file_size)
        if data + member.size > file_size:
            left = max(file_size - data, 0)
            raise TarError(
                offset,
                f"member {member.name!r} needs {member.size} bytes, {left} are left: the file is torn",
                "torn-shard",
            )
        yield member
        pax = {}
        offset = _after(data, member.size)
    if pax:
        raise TarError(offset, "an extended header describes no member")
    _verify_end(file, offset, file_size)


def _member(header: _Header, offset: int, data: int, pax: dict[str, str]) -> Member:
    name = pax.get("path", header.name)
    size = _decimal(pax["size"], offset) if "size" in pax else header.size
    sparse = any(key.startswith("GNU.sparse") for key in pax)
    directory = name.endswith("/")
    if header.type in _WITHOUT_DATA:
        size = 0
    return Member(name, offset, data, size, header.type in _REGULAR and not sparse and not directory)


def _parse(block: bytes, offset: int) -> _Header:
    _verify_checksum(block, offset)
    name = block[:100].split(b"\0", 1)[0]
    prefix = block[345:500].split(b"\0", 1)[0]
    if prefix and block[257:263] == b"ustar\0":
        name = prefix + b"/" + name
    return _Header(_text(name), _number(block[124:136], offset), block[156:157])


def _verify_checksum(block: bytes, offset: int) -> None:
    stated = _number(block[148:156], offset)
    unsigned = sum(block) - sum(block[148:156]) + 8 * ord(" ")
    above_127 = sum(byte > 127 for byte in block[:148] + block[156:])
    if stated not in (unsigned, unsigned - 256 * above_127):  # some old programs summed signed bytes
        raise TarError(offset, "the header's checksum is wrong: the header is damaged or this is no tar")


def _number(field: bytes, offset: int) -> int:
    """Octal digits, or GNU's base 256 for large numbers."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    try:
        return _non_negative(int(field.split(b"\0", 1)[0].strip() or b"0", 8))
    except ValueError:
        raise TarError(offset, f"the header's number {field!r} is not octal") from None


def _decimal(text: str, offset: int) -> int:
    try:
        return _non_negative(int(text))
    except ValueError:
        raise TarError(offset, f"the pax size {text!r} is not a number") from None


def _non_negative(number: int) -> int:
    if number < 0:
        raise ValueError
    return number


def _parse_pax(payload: bytes, offset: int) -> dict[str, str]:
    """Records `length key=value\\n`, where the length counts the whole record."""
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


def _extended(file: BinaryIO, offset: int, file_size: int, size: int) -> bytes:
    if size > _MAX_EXTENDED:
        raise TarError(offset - BLOCK, f"an extended header of {size} bytes")
    return _read(file, offset, file_size, size, "extended header")


def _skip_sparse_map(file: BinaryIO, member: Member, block: bytes, file_size: int) -> tuple[Member, int]:
    """GNU sparse members go on in blocks of their own before the data."""
    data = member.offset
    more = block[482]
    while more:
        more = _read(file, data, file_size, BLOCK, "sparse map")[504]
        data += BLOCK
    return Member(member.name, member.header, data, member.size, False), data


def _verify_end(file: BinaryIO, offset: int, file_size: int) -> None:
    """Two blocks of zeros, then nothing but zeros."""
    _read(file, offset, file_size, 2 * BLOCK, "end of the archive")
    file.seek(offset)
    at = offset
    while chunk := file.read(1 << 20):
        if any(chunk):
            first = at + next(i for i, byte in enumerate(chunk) if byte)
            raise TarError(first, "data after the end of the archive: joined or damaged tars", "trailing-data")
        at += len(chunk)


def _read(file: BinaryIO, offset: int, file_size: int, size: int, what: str) -> bytes:
    file.seek(offset)
    data = file.read(size)
    if len(data) < size:
        reason = f"the file ends at byte {file_size} where its {what} should be: it is torn"
        raise TarError(min(offset, file_size), reason, "torn-shard")
    return data


def _next_header(file: BinaryIO, start: int, file_size: int) -> int | None:
    """The first block from `start` on (a multiple of BLOCK) that names the format and has the checksum it states."""
    magic_at, magic = 257, b"ustar"
    for offset in range(start, file_size - BLOCK + 1, _SEARCHED):
        file.seek(offset)
        data = file.read(_SEARCHED)
        at = data.find(magic)
        while at >= 0:
            begin = at - magic_at
            if begin >= 0 and begin % BLOCK == 0 and _is_header(data[begin : begin + BLOCK]):
                return offset + begin
            at = data.find(magic, at + 1)
    return None


def _is_header(block: bytes) -> bool:
    try:
        _parse(block, 0)
    except TarError:
        return False
    return len(block) == BLOCK


def _after(data: int, size: int) -> int:
    return data + -(-size // BLOCK) * BLOCK


def _text(name: bytes) -> str:
    return name.decode("utf-8", "backslashreplace")
