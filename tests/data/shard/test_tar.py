from __future__ import annotations

import io
import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusion_train.data.shard.tar import BLOCK, TarError, walk

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


def _walk(data: bytes) -> list:
    return list(walk(io.BytesIO(data), len(data)))


def _archive(members: list[tuple[str, bytes]], tar_format: int) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tar_format) as archive:
        for name, contents in members:
            info = tarfile.TarInfo(name)
            info.size = len(contents)
            archive.addfile(info, io.BytesIO(contents))
    return out.getvalue()


NAMES = {
    "ustar": ["a.txt", "p" * 90 + "/" + "n" * 90 + ".txt"],
    "gnu": ["a.txt", "n" * 300 + ".txt", "ünï.txt", "b.txt"],
    "pax": ["a.txt", "n" * 300 + ".txt", "ünï.txt", "b.txt", "line\nbreak.txt"],
}


@pytest.mark.parametrize("name", FORMATS)
def test_agrees_with_tarfile(name):
    data = _archive([(member, member.encode() * 40) for member in NAMES[name]], FORMATS[name])
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        expected = [(info.name, info.offset_data, info.size) for info in archive]
    assert [(member.name, member.offset, member.size) for member in _walk(data)] == expected


@given(
    names=st.lists(
        st.text(st.characters(codec="utf-8", exclude_characters="\0/"), min_size=1, max_size=60), max_size=3
    ),
    size=st.integers(0, 1500),
)
@settings(max_examples=30, deadline=None)
def test_agrees_with_tarfile_on_any_name(names, size):
    data = _archive([(name, b"x" * size) for name in names], tarfile.PAX_FORMAT)
    assert [(member.name, member.size) for member in _walk(data)] == [(name, size) for name in names]


def test_members_that_are_no_files_are_marked():
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for kind in (
            tarfile.DIRTYPE,
            tarfile.SYMTYPE,
            tarfile.LNKTYPE,
            tarfile.FIFOTYPE,
            tarfile.CHRTYPE,
            tarfile.REGTYPE,
        ):
            info = tarfile.TarInfo(f"type{kind.decode()}.txt")
            info.type, info.linkname = kind, "elsewhere" if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE) else ""
            archive.addfile(info)
    assert [member.regular for member in _walk(out.getvalue())] == [False] * 5 + [True]


@pytest.mark.parametrize("name", FORMATS)
def test_every_cut_before_the_end_marker_is_found(name):
    data = _archive([(member, b"contents" * 90) for member in NAMES[name]], FORMATS[name])
    whole = _walk(data)
    end = len(data.rstrip(b"\0")) // 512 * 512 + 512
    cuts = {edge + shift for edge in range(512, end + 1024, 512) for shift in (-1, 0, 1)}
    for cut in cuts:
        seen, error = _walk_until_error(data[:cut])
        assert error is not None
        assert seen == whole[: len(seen)]


def _walk_until_error(data: bytes) -> tuple[list, TarError | None]:
    members = walk(io.BytesIO(data), len(data))
    seen = []
    try:
        seen.extend(members)
    except TarError as error:
        return seen, error
    return seen, None


def test_every_bit_of_a_header_counts():
    data = _archive([("a.txt", b"one"), ("b.txt", b"two")], tarfile.USTAR_FORMAT)
    second = 1024
    for byte in range(512):
        damaged = bytearray(data)
        damaged[second + byte] ^= 1
        if 154 <= byte < 156:  # the checksum's own terminator says nothing
            continue
        with pytest.raises(TarError) as error:
            _walk(bytes(damaged))
        assert error.value.offset == second


@pytest.mark.parametrize(
    ("tail", "message"),
    [(b"", "truncated"), (bytes(512), "truncated"), (bytes(1024) + b"x" * 512, "data after the end")],
    ids=["no-end", "half-an-end", "joined"],
)
def test_the_end_of_the_archive_is_verified(tail, message):
    data = _archive([("a.txt", b"one")], tarfile.USTAR_FORMAT)[:1024]
    with pytest.raises(TarError, match=message):
        _walk(data + tail)


def test_a_claim_of_a_terabyte_is_refused():
    info = tarfile.TarInfo("huge.png")
    info.size = 1 << 40
    with pytest.raises(TarError, match="1099511627776 bytes"):
        _walk(info.tobuf(tarfile.GNU_FORMAT) + bytes(10240))


@given(st.binary(max_size=1600), st.integers(0, 1535))
@settings(max_examples=80, deadline=None)
def test_any_bytes_end_in_members_or_a_tar_error(noise, place):
    data = _archive([("a" * 150 + ".txt", b"one")], tarfile.PAX_FORMAT)
    data = data[:place] + noise + data[place + len(noise) :]
    try:
        members = _walk(data)
    except TarError:
        return
    assert all(member.offset + member.size <= len(data) for member in members)


def _blocks(data: bytes) -> bytes:
    return data + bytes(-len(data) % BLOCK)


def _member(name: str, contents: bytes = b"", kind: bytes = tarfile.REGTYPE, size: int | None = None) -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, len(contents) if size is None else size
    return info.tobuf(tarfile.GNU_FORMAT) + _blocks(contents)


def _records(**values: str) -> bytes:
    records = b""
    for key, value in values.items():
        record = f" {key.replace('__', '.')}={value}\n".encode()
        length = len(record) + len(str(len(record) + 2))
        records += str(length).encode() + record
    return records


def _pax(kind: bytes = tarfile.XHDTYPE, **values: str) -> bytes:
    return _member("pax", _records(**values), kind)


END = bytes(2 * BLOCK)
LONG = "folder/" * 30 + "a.txt"
DESCRIBED = {
    "pax-path": (_pax(path=LONG) + _member("cut.txt", b"one"), (LONG, 3, True)),
    "pax-size": (_pax(size="3") + _member("a.txt", b"one", size=0), ("a.txt", 3, True)),
    "pax-of-solaris": (_pax(b"X", path=LONG) + _member("cut.txt", b"one"), (LONG, 3, True)),
    "what-is-no-path": (_pax(mtime="1.5", comment="path=x") + _member("a.txt", b"one"), ("a.txt", 3, True)),
    "empty-value-takes-back": (_pax(path="") + _member("a.txt", b"one"), ("a.txt", 3, True)),
    "two-pax-headers": (_pax(size="3") + _pax(path=LONG) + _member("cut.txt", b"one", size=0), (LONG, 3, True)),
    "gnu-long-name": (
        _member("././@LongLink", LONG.encode() + b"\0", tarfile.GNUTYPE_LONGNAME) + _member("cut.txt", b"one"),
        (LONG, 3, True),
    ),
    "gnu-long-link": (
        _member("././@LongLink", b"x" * 200 + b"\0", tarfile.GNUTYPE_LONGLINK) + _member("a.txt", b"", tarfile.SYMTYPE),
        ("a.txt", 0, False),
    ),
    "link-with-a-size": (_member("a.txt", b"", tarfile.LNKTYPE, size=700), ("a.txt", 0, False)),
    "sparse-in-pax": (_pax(GNU__sparse__major="1") + _member("a.txt", b"map"), ("a.txt", 3, False)),
}


@pytest.mark.parametrize("case", DESCRIBED)
def test_extended_headers_describe_the_next_member_alone(case):
    data, expected = DESCRIBED[case]
    first, second = _walk(data + _member("b.txt", b"two") + END)
    assert (first.name, first.size, first.regular) == expected
    assert (second.name, second.offset, second.size) == ("b.txt", len(data) + BLOCK, 3)
    with tarfile.open(fileobj=io.BytesIO(data + _member("b.txt", b"two") + END)) as archive:
        offsets = [(info.name, info.offset_data) for info in archive]
    if case not in ("empty-value-takes-back", "pax-of-solaris"):  # which tarfile reads otherwise
        assert offsets == [(first.name, first.offset), (second.name, second.offset)]


def test_a_global_header_holds_to_the_end_but_for_what_a_member_says_itself():
    data = _pax(tarfile.XGLTYPE, path="all.txt", comment="of git") + _member("a.txt", b"one")
    data += _pax(path="own.txt") + _member("b.txt", b"two") + _member("c.txt", b"three")
    assert [(m.name, m.size) for m in _walk(data + END)] == [("all.txt", 3), ("own.txt", 3), ("all.txt", 5)]


def test_the_map_of_a_sparse_member_is_passed_over():
    header = bytearray(_member("a.txt", kind=tarfile.GNUTYPE_SPARSE, size=3))
    header[482] = 1  # goes on
    header[148:156] = b"%06o\0 " % (sum(header[:148]) + sum(header[156:]) + 8 * ord(" "))
    more = bytearray(BLOCK)
    more[504] = 1
    data = bytes(header) + bytes(more) + bytes(BLOCK) + _blocks(b"one")
    sparse, plain = _walk(data + _member("b.txt", b"two") + END)
    assert (sparse.name, sparse.offset, sparse.regular) == ("a.txt", 3 * BLOCK, False)
    assert (plain.name, plain.offset) == ("b.txt", len(data) + BLOCK)


REFUSED = {
    "huge": (
        _member("pax", b"", tarfile.XHDTYPE, size=2 << 20),
        0,
        "an extended header must have at most 1048576 bytes, got 2097152",
    ),
    "cut": (_pax(path=LONG)[: BLOCK + 100], BLOCK, "where its extended header should be: it is truncated"),
    "record-too-long": (_member("pax", b"99 path=a\n", tarfile.XHDTYPE), BLOCK, "damaged pax header"),
    "record-without-end": (_member("pax", b"9 path=ab", tarfile.XHDTYPE), BLOCK, "damaged pax header"),
    "record-without-key": (_member("pax", b"6 abc\n", tarfile.XHDTYPE), BLOCK, "damaged pax header"),
    "size-in-words": (_pax(size="three") + _member("a.txt", b"one"), 2 * BLOCK, "the pax size 'three' is not a number"),
    "size-below-0": (_pax(size="-512") + _member("a.txt", b"one"), 2 * BLOCK, "the pax size '-512' is not a number"),
    "size-past-the-end": (_pax(size="99999999") + _member("a.txt", b"one"), 2 * BLOCK, "needs 99999999 bytes"),
    "of-no-member": (_pax(path=LONG), 2 * BLOCK, "no member follows an extended header"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_extended_headers_that_cannot_be_are_named_with_their_byte(case):
    data, offset, message = REFUSED[case]
    with pytest.raises(TarError, match=message) as error:
        _walk(data if case == "cut" else data + END)
    assert error.value.offset == offset


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK])
def test_headers_of_extended_headers_have_checksums_too(kind):
    data = bytearray(_member("pax", _records(path=LONG), kind) + _member("a.txt", b"one") + END)
    data[20] ^= 1
    with pytest.raises(TarError, match="wrong checksum") as error:
        _walk(bytes(data))
    assert error.value.offset == 0


def _names_after_faults(data: bytes) -> tuple[list[str], list[str]]:
    faults: list[TarError] = []
    names = [member.name for member in walk(io.BytesIO(data), len(data), faults)]
    return names, [fault.rule for fault in faults]


BEFORE, PAIR = _member("before.txt", b"x"), _pax(path=LONG) + _member("cut.txt", b"one")
DAMAGED = bytes([PAIR[0] ^ 1]) + PAIR[1:]
AFTER = _member("after.txt", b"y")
GAPS = {
    "long-name-lost": (BEFORE + DAMAGED + AFTER, ["before.txt", "after.txt"], ["damaged-header"]),
    "records-damaged": (
        BEFORE + PAIR.replace(b" path=", b"=path ") + AFTER,
        ["before.txt", "after.txt"],
        ["damaged-header"],
    ),
    "twice-in-a-row": (BEFORE + DAMAGED + DAMAGED + AFTER, ["before.txt", "after.txt"], ["damaged-header"] * 2),
    "plain-header-lost": (BEFORE + bytes([AFTER[0] ^ 1]) + AFTER[1:] + PAIR + AFTER, ["before.txt", "after.txt"], None),
    "joined": (BEFORE + END + PAIR + AFTER, ["before.txt", LONG, "after.txt"], ["trailing-data"]),
    "joined-long-name-lost": (BEFORE + END + DAMAGED + AFTER, ["before.txt", "after.txt"], ["trailing-data"]),
}


@pytest.mark.parametrize("case", GAPS)
def test_behind_a_gap_no_member_goes_by_a_name_that_may_not_be_its_own(case):
    data, names, rules = GAPS[case]
    found, faults = _names_after_faults(data + END)
    assert found == names
    assert faults == (rules or ["damaged-header"])
