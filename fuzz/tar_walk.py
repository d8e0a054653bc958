"""Coverage-guided fuzzing of the walk over tar headers:
any bytes end in members and noted faults, never in anything else.

pip install atheris; python fuzz/tar_walk.py -max_total_time=60

Further options are libFuzzer's; a folder as argument keeps what was found.
"""

from __future__ import annotations

import io
import random
import sys
import tarfile
import tempfile
from contextlib import suppress
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["diffusion_train.data.shard.tar"]):
    from diffusion_train.data.shard.tar import BLOCK, Member, TarError, walk

FORMATS = (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)
TYPES = b"0\x00123456LKxgS7V"


def one_input(data: bytes) -> None:
    faults: list[TarError] = []
    members = list(walk(io.BytesIO(data), len(data), faults))
    for member in members:
        assert BLOCK <= member.header + BLOCK <= member.offset <= len(data)
        assert member.size >= 0
        assert member.offset + member.size <= len(data)
    starts = [member.header for member in members]
    assert starts == sorted(set(starts))
    assert len(faults) <= len(data) // BLOCK + 1
    strict = _until_error(data)
    assert members[: len(strict)] == strict
    assert faults or members == strict


def _until_error(data: bytes) -> list[Member]:
    members: list[Member] = []
    with suppress(TarError):
        members.extend(walk(io.BytesIO(data), len(data)))
    return members


def mutated(data: bytes, max_size: int, seed: int) -> bytes:
    """Most headers get a right checksum again, for a fuzzer does not find one by itself."""
    draw = random.Random(seed)
    changed = bytearray(atheris.Mutate(data, max_size))
    for start in range(0, len(changed) - BLOCK + 1, BLOCK):
        if changed[start + 257 : start + 262] == b"ustar" and draw.random() < 0.9:
            block = changed[start : start + BLOCK]
            if draw.random() < 0.1:
                block[156] = draw.choice(TYPES)
            if draw.random() < 0.1:
                block[124:136] = b"%011o\0" % draw.choice([0, 1, 600, 1 << 20, 8**11 - 1])
            if draw.random() < 0.03:
                block[124:136] = b"\x80" + draw.randbytes(11)
            block[148:156] = b" " * 8
            block[148:156] = b"%06o\0 " % sum(block)
            changed[start : start + BLOCK] = block
    return bytes(changed[:max_size])


def write_seeds(folder: Path) -> None:
    for number, tar_format in enumerate(FORMATS):
        with tarfile.open(folder / f"{number}.tar", "w", format=tar_format) as archive:
            for name in ("a.png", "a.txt", "ü" * 30 + "/" + "n" * 60 + ".txt", "folder/b.png"):
                info = tarfile.TarInfo(name)
                info.size = 700
                archive.addfile(info, io.BytesIO(name.encode().ljust(700)))


def main() -> None:
    folders = [argument for argument in sys.argv[1:] if not argument.startswith("-")]
    with tempfile.TemporaryDirectory() as seeds:
        write_seeds(Path(seeds))
        arguments = [sys.argv[0], "-max_len=16384", *sys.argv[1:], *([] if folders else [seeds])]
        if folders:
            write_seeds(Path(folders[0]))
        atheris.Setup(arguments, one_input, custom_mutator=mutated)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
