"""Tars mutated at random: nothing raises or hangs, and every pair that comes out is a pair that went in."""

from __future__ import annotations

import random
import tarfile
import tracemalloc
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from diffusion_train.data.shard.scan import build_index

BLOCK = 512
FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}
QUICK = settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
LONG = settings(QUICK, max_examples=1500, derandomize=False)
SIZES = [0, 1, 511, 513, 3000, 8**11 - 1, 1 << 40, 1 << 63, (1 << 88) - 1]


class Unit(NamedTuple):
    """A whole member: its headers, the last of them at `header`, and its data; `lies` about its size or name."""

    name: str
    contents: bytes
    data: bytes
    header: int
    lies: bool = False

    @property
    def key(self) -> str:
        return self.name.rsplit(".", 1)[0]


def _unit(name: str, contents: bytes, tar_format: int) -> Unit:
    info = tarfile.TarInfo(name)
    info.size = len(contents)
    headers = info.tobuf(tar_format)
    return Unit(name, contents, headers + contents + bytes(-len(contents) % BLOCK), len(headers) - BLOCK)


def _shard(shard: str, tar_format: int) -> list[Unit]:
    """Four samples; with names too long for one header where the format can say them."""
    draw, units = random.Random(shard), []
    for number in range(4):
        key = shard + str(number) + "n" * 150 * (number % 2 and tar_format != tarfile.USTAR_FORMAT)
        image = b"GIF89a" + f"image of {key}".encode() + draw.randbytes(draw.choice([5, 400, 900]))
        units += [_unit(f"{key}.gif", image, tar_format), _unit(f"{key}.txt", f"caption of {key}".encode(), tar_format)]
    return units


SHARDS = {name: (_shard("a", kind), _shard("b", kind)) for name, kind in FORMATS.items()}
TRUTH = {
    (image.key, image.contents, caption.contents)
    for one, two in SHARDS.values()
    for units in (one, two)
    for image, caption in zip(units[::2], units[1::2], strict=True)
}


def _restated(unit: Unit, size: int | None = None, kind: bytes | None = None) -> Unit:
    """The unit with a header that lies about it, under a right checksum."""
    block = bytearray(unit.data[unit.header : unit.header + BLOCK])
    if size is not None:
        block[124:136] = b"%011o\0" % size if size < 8**11 else b"\x80" + size.to_bytes(11, "big")
    if kind is not None:
        block[156:157] = kind
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    data = unit.data[: unit.header] + bytes(block) + unit.data[unit.header + BLOCK :]
    return unit._replace(data=data, lies=True)


def _renamed(unit: Unit, number: int) -> Unit:
    """Under a long name of GNU tar that no other member has."""
    name = f"other{number}" + "x" * 120 + ".gif"
    return _unit(name, unit.contents, tarfile.GNU_FORMAT)._replace(lies=True)


places = st.integers(0, 40)
edits = st.lists(
    st.one_of(
        st.tuples(st.just("drop"), places, st.integers(1, 3)),
        st.tuples(st.just("repeat"), places, st.integers(1, 3), places),
        st.tuples(st.just("splice"), places, st.integers(1, 3), places),
        st.tuples(st.just("size"), places, st.sampled_from(SIZES)),
        st.tuples(st.just("type"), places, st.sampled_from([b"1", b"2", b"3", b"5", b"6", b"S", b"V", b"x"])),
        st.tuples(st.just("rename"), places, places),
    ),
    max_size=4,
)
flips = st.dictionaries(places, st.integers(0, 8 * BLOCK - 1), max_size=3)


def _edited(units: list[Unit], other: list[Unit], edit: tuple) -> list[Unit]:
    kind, place, *more = edit
    place %= len(units) + 1
    if kind == "drop":
        return units[:place] + units[place + more[0] :]
    if kind in ("repeat", "splice"):
        start = more[1] % 8
        return units[:place] + (units if kind == "repeat" else other)[start : start + more[0]] + units[place:]
    if place < len(units):
        unit = units[place]
        change = {"size": lambda: _restated(unit, size=more[0]), "type": lambda: _restated(unit, kind=more[0])}
        changed = change.get(kind, lambda: _renamed(unit, more[0]))()
        return [*units[:place], changed, *units[place + 1 :]]
    return units


def _flipped(data: bytearray, units: list[Unit], flips: dict[int, int]) -> bool:
    """One bit of a header at most, so that its checksum cannot be right by chance."""
    starts = [sum(len(unit.data) for unit in units[:number]) + unit.header for number, unit in enumerate(units)]
    for number, bit in flips.items():
        if number < len(starts):
            data[starts[number] + bit // 8] ^= 1 << bit % 8
    return any(number < len(starts) for number in flips)


def _pairs(path):
    index, data = build_index(path), path.read_bytes()
    samples = [(index.key(number), index.sample(number)) for number in range(len(index))]
    for _, members in samples:
        assert all(at >= 0 and at + size <= len(data) for at, size in members.values())
    found = {
        (key, *(data[members[name][0] :][: members[name][1]] for name in ("gif", "txt")))
        for key, members in samples
        if {"gif", "txt"} <= members.keys()
    }
    return found, index


def _check_damage(path, name, edits, flips, cut):
    units, other = SHARDS[name]
    for edit in edits:
        units = _edited(units, other, edit)
    data = bytearray(b"".join(unit.data for unit in units) + bytes(2 * BLOCK))
    _flipped(data, units, flips)
    path.write_bytes(data[: len(data) - cut])
    found, index = _pairs(path)
    liars = {unit.key for unit in units if unit.lies}
    assert {pair for pair in found if pair[0] not in liars} <= TRUTH
    if not index.problems and not liars:
        present = [unit.name for unit in units]
        assert found == {pair for pair in TRUTH if {f"{pair[0]}.gif", f"{pair[0]}.txt"} <= set(present)}


damage = given(
    name=st.sampled_from(sorted(FORMATS)), edits=edits, flips=flips, cut=st.one_of(st.just(0), st.integers(0, 12_000))
)


@damage
@QUICK
def test_what_is_left_of_damaged_tars_are_pairs_that_went_in(tmp_path_factory, name, edits, flips, cut):
    _check_damage(_file(tmp_path_factory), name, edits, flips, cut)


@pytest.mark.slow
@damage
@LONG
def test_what_is_left_of_tars_damaged_in_every_way_are_pairs_that_went_in(tmp_path_factory, name, edits, flips, cut):
    _check_damage(_file(tmp_path_factory), name, edits, flips, cut)


anything = given(
    name=st.sampled_from(sorted(FORMATS)),
    edits=st.lists(
        st.tuples(
            st.integers(0, 14_000),
            st.integers(0, 1500),
            st.one_of(st.binary(max_size=40), st.tuples(st.integers(0, 14_000), st.integers(0, 2000)), st.just("size")),
        ),
        min_size=1,
        max_size=5,
    ),
    aligned=st.booleans(),
)


def _check_anything(path, name, edits, aligned):
    """Whatever the bytes, each member lies right behind a header whose checksum holds."""
    data = b"".join(unit.data for unit in SHARDS[name][0]) + bytes(2 * BLOCK)
    for place, length, new in edits:
        if aligned:
            place, length = place // BLOCK * BLOCK, length // BLOCK * BLOCK
        piece = data[new[0] : new[0] + new[1]] if isinstance(new, tuple) else b"\xff" * 11 if new == "size" else new
        data = data[:place] + piece + data[place + length :]
    path.write_bytes(data)
    index = build_index(path)
    for number in range(len(index)):
        for at, size in index.sample(number).values():
            header = data[at - BLOCK : at]
            stated = int(header[148:156].split(b"\0")[0].strip() or b"0", 8)
            assert at % BLOCK == 0
            assert at + size <= len(data)
            assert stated in (sum(header[:148]) + 256 + sum(header[156:]), _signed_sum(header))


def _signed_sum(header: bytes) -> int:
    return 256 + sum(byte - 256 * (byte > 127) for byte in header[:148] + header[156:])


@anything
@QUICK
def test_any_bytes_give_an_index(tmp_path_factory, name, edits, aligned):
    _check_anything(_file(tmp_path_factory), name, edits, aligned)


@pytest.mark.slow
@anything
@LONG
def test_any_bytes_at_all_give_an_index(tmp_path_factory, name, edits, aligned):
    _check_anything(_file(tmp_path_factory), name, edits, aligned)


@pytest.mark.parametrize("kind", [b"0", b"L", b"K", b"x", b"g", b"S"])
def test_claims_of_any_size_take_no_memory(tmp_path, kind):
    path = tmp_path / "a.tar"
    unit = _unit("a.gif", bytes(900), tarfile.USTAR_FORMAT)
    build_index(_written(path, [unit]))
    tracemalloc.start()
    try:
        for size in SIZES:
            build_index(_written(path, [_restated(unit, size, kind)] * 20))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 16 << 20


def _written(path, units):
    path.write_bytes(b"".join(unit.data for unit in units) + bytes(2 * BLOCK))
    return path


def _file(factory):
    """One file for all examples."""
    folder = factory.getbasetemp() / "fuzz"
    folder.mkdir(exist_ok=True)
    return folder / "a.tar"
