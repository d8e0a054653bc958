from __future__ import annotations

import io
import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusion_train.data.tar import TarError, walk

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
    [(b"", "torn"), (bytes(512), "torn"), (bytes(1024) + b"x" * 512, "data after the end")],
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
