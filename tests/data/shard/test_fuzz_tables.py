"""Kept indexes and tables damaged at random:
found out and made again, never a wrong pair or another error than of data.
"""

from __future__ import annotations

import os
import random
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from diffusion_train.data.dataset import ShardDataset
from diffusion_train.data.image.preprocess import Preprocess
from diffusion_train.data.image.transform import ImageTransform
from diffusion_train.data.order.order import Draw
from diffusion_train.data.shard.catalog_builder import open_shards
from diffusion_train.data.shard.index_file import load_index, sidecars
from diffusion_train.data.shard.problem import DataError
from diffusion_train.data.shard.table_cache import load_tables
from diffusion_train.data.storage.base import Missing, Range, Stat, StorageError
from diffusion_train.data.storage.by_scheme import StorageByScheme

RECORD = 2048  # bytes of a sample in a tar: two members of a header and a block each
GIF = b"GIF89a\1\0\1\0\x80\0\0" + bytes(6) + b"\x2c\0\0\0\0\1\0\1\0\0\2\2\x44\1\0\x3b"
COLOUR = 512 + 13  # of the image's one pixel, the number of its sample
DIGITS = 7


class Numbers(StorageByScheme):
    """Shards of samples that say their own number thrice: in the key, the colour of the image and the caption.

    Nothing is stored; what is read is made then. All shards have one size and one version, as copied ones may have.
    """

    def __init__(self, num_samples: int, num_shards: int) -> None:
        super().__init__()
        self.per_shard = num_samples // num_shards
        self.urls = [f"http://numbers/{shard}.tar" for shard in range(num_shards)]

    def stat(self, url: str) -> Stat:
        if url not in self.urls:
            raise Missing(url)
        return Stat(self.per_shard * RECORD + 1024, "one")

    def begin(self, ranges: Sequence[Range]) -> tuple[int, Callable[[], list[bytes]]]:
        return 0, lambda: [self._read(*wanted) for wanted in ranges]

    def _read(self, url: str, version: str, offset: int, size: int) -> bytes:
        first, last = offset // RECORD, min(-(-(offset + size) // RECORD), self.per_shard)
        number = np.arange(first, last) + self.urls.index(url) * self.per_shard
        data = _records(number).tobytes() + bytes(2048)
        return data[offset - first * RECORD :][:size]


def _records(number: np.ndarray) -> np.ndarray:
    rows = np.zeros((len(number), RECORD), np.uint8)
    digits = np.stack([number // 10**place % 10 for place in reversed(range(DIGITS))], 1).astype(np.uint8) + ord("0")
    rows[:, 512 : 512 + len(GIF)] = np.frombuffer(GIF, np.uint8)
    rows[:, COLOUR : COLOUR + 3] = np.stack([number >> 16, number >> 8 & 255, number & 255], 1)
    for header, ending, size in ((0, b".gif", len(GIF)), (1024, b".txt", DIGITS)):
        rows[:, header : header + DIGITS] = digits
        fields = ((DIGITS, ending), (124, b"%011o\0" % size), (148, b" " * 8), (156, b"0"), (257, b"ustar\x0000"))
        for place, text in fields:
            rows[:, header + place : header + place + len(text)] = np.frombuffer(text, np.uint8)
        sums = rows[:, header : header + 512].sum(1, dtype=np.int64)
        rows[:, header + 148 : header + 154] = np.stack([sums >> 3 * place & 7 for place in (5, 4, 3, 2, 1, 0)], 1) + 48
        rows[:, header + 154] = 0
    rows[:, 1536 : 1536 + DIGITS] = digits
    return rows


def _dataset(storage: Numbers) -> ShardDataset:
    return ShardDataset(storage.urls, Preprocess(ImageTransform(8)), storage=storage)


def _check(storage: Numbers, numbers: Sequence[int], whole: bool = True) -> None:
    """All samples say one number and their own; with `whole` none of them is replaced."""
    try:
        dataset = _dataset(storage)
        samples = dataset.read([Draw(0, number) for number in numbers])
    except (DataError, StorageError):
        assert not whole
        return
    assert len(dataset) == storage.per_shard * len(storage.urls) or not whole
    for number, sample in zip(numbers, samples, strict=True):
        red, green, blue = sample["x"][:, 0, 0].tolist()
        shown = red << 16 | green << 8 | blue
        assert int(sample["key"]) == shown == int(sample["caption"])
        assert (shown == number and not sample["bad"]) or (sample["bad"] and not whole)


def _files(cache: Path) -> list[Path]:
    return sorted(path for path in cache.rglob("*") if path.suffix in (".npy", ".npz", ".json"))


def _flip(file: Path, draw: random.Random) -> None:
    data = bytearray(file.read_bytes())
    data[min(int(draw.expovariate(1 / 200)), len(data) - 1) if draw.random() < 0.5 else draw.randrange(len(data))] ^= (
        1 << draw.randrange(8)
    )
    file.write_bytes(data)


def _cut(file: Path, draw: random.Random) -> None:
    file.write_bytes(file.read_bytes()[: draw.randrange(file.stat().st_size)])


def _fill(file: Path, draw: random.Random) -> None:
    data = bytearray(file.read_bytes())
    start = draw.randrange(len(data))
    data[start : start + 512] = bytes(len(data[start : start + 512]))
    file.write_bytes(data)


def _swap(file: Path, draw: random.Random) -> None:
    """With another file of its kind or of its own table, or the whole table with another collection's."""
    folders = [folder for folder in file.parent.parent.iterdir() if folder.is_dir() and folder != file.parent]
    if file.suffix == ".npy" and folders and draw.random() < 0.3:
        aside = file.parent.rename(file.parent.with_name("aside"))
        folders[0].rename(file.parent)
        aside.rename(folders[0])
        return
    others = [path for path in file.parent.parent.rglob(f"*{file.suffix}") if path != file]
    if others:
        other = draw.choice(others)
        one, two = file.read_bytes(), other.read_bytes()
        file.write_bytes(two)
        other.write_bytes(one)


DAMAGE: dict[str, Callable[[Path, random.Random], None]] = {"flip": _flip, "cut": _cut, "fill": _fill, "swap": _swap}


def _fuzz(storage: Numbers, cache: Path, kept: Path, num_trials: int, what: str, seed: int) -> None:
    draw = random.Random(seed)
    numbers = range(storage.per_shard * len(storage.urls))
    for _ in range(num_trials):
        shutil.rmtree(cache)
        shutil.copytree(kept, cache)
        if what == "index":
            shutil.rmtree(cache / "collection")
        files = _files(cache / what)
        name = draw.choice(sorted(DAMAGE))
        DAMAGE[name](draw.choice(files), draw)
        _check(storage, numbers, whole=(what, name) != ("index", "swap"))


@pytest.fixture
def kept(tmp_path):
    """A small collection's cache folder, a copy of it to go back to, and its storage."""
    storage = Numbers(24, 3)
    open_shards(storage.urls[:2], storage)  # another collection, whose tables could be taken for this one's
    _check(storage, range(24))
    shutil.copytree(tmp_path / "cache", tmp_path / "kept")
    return storage, tmp_path / "cache", tmp_path / "kept"


@pytest.mark.slow
@pytest.mark.parametrize("what", ["index", "collection"])
def test_damaged_indexes_and_tables_are_found_out(kept, what):
    _fuzz(*kept, num_trials=40, what=what, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("what", ["index", "collection"])
def test_indexes_and_tables_damaged_in_every_way_are_found_out(kept, what):
    _fuzz(*kept, num_trials=600, what=what, seed=random.randrange(1 << 30))


def _check_flipped_bits(file: Path, storage: Numbers, places: Sequence[int]) -> None:
    """The index read from the file is none, or the one that was written."""
    url, data = storage.urls[0], file.read_bytes()
    stat = storage.stat(url)
    whole = load_index(url, stat, storage)
    for place in places:
        for bit in range(8):
            file.write_bytes(data[:place] + bytes([data[place] ^ 1 << bit]) + data[place + 1 :])
            found = load_index(url, stat, storage)
            assert found is None or all(np.array_equal(vars(found)[name], vars(whole)[name]) for name in vars(whole))
    file.write_bytes(data)


@pytest.fixture
def first_index(tmp_path):
    """The file of the first shard's index, larger than what is read of a file at once, and its storage."""
    storage = Numbers(3998, 2)
    open_shards(storage.urls, storage)
    return tmp_path / "cache" / "index" / Path(sidecars(storage.urls[0])[1]).name, storage


def test_a_length_changed_in_an_index_is_found_out(first_index):
    file, storage = first_index
    starts = [found.end() for found in re.finditer(rb"'shape': \(", file.read_bytes())]
    assert len(starts) == 6
    _check_flipped_bits(file, storage, [start + place for start in starts for place in range(6)])


@pytest.mark.slow
def test_any_bit_flipped_in_an_index_is_found_out(first_index):
    file, storage = first_index
    size = file.stat().st_size
    ends = [*range(200), *range(size - 200, size)]
    _check_flipped_bits(file, storage, ends + random.Random(0).sample(range(200, size - 200), 100))


@pytest.mark.slow
def test_the_index_of_a_million_samples_damaged(tmp_path):
    storage, cache = Numbers(1_000_000, 2), tmp_path / "cache"
    numbers = random.Random(0).sample(range(1_000_000), 2000)
    _check(storage, numbers)
    [folder] = (folder for folder in (cache / "collection").iterdir() if folder.is_dir())
    draw, files = random.Random(0), _files(folder)
    for trial in range(80):
        with files[trial % len(files)].open("r+b") as file:
            place = draw.randrange(os.fstat(file.fileno()).st_size)
            byte = os.pread(file.fileno(), 1, place)
            os.pwrite(file.fileno(), bytes([byte[0] ^ 1 << draw.randrange(8)]), place)
            assert load_tables(folder) is None
            os.pwrite(file.fileno(), byte, place)
    assert load_tables(folder) is not None
    _flip(folder / "starts.npy", draw)
    _check(storage, numbers)
    _swap(next(cache.glob("index/*.npz")), draw)
    shutil.rmtree(cache / "collection")
    _check(storage, numbers, whole=False)
