"""Captions in a table beside the shards."""

from __future__ import annotations

import csv
import logging
from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from itertools import islice
from pathlib import Path

import numpy as np

from diffusion_train.data.caption.captions import Captions
from diffusion_train.data.caption.fault import decode, is_utf8
from diffusion_train.data.shard.catalog import Collection
from diffusion_train.data.shard.problem import DataError
from diffusion_train.utils.files import file_sha256
from diffusion_train.utils.text import shown

log = logging.getLogger(__name__)
_SHOWN = 5  # keys in a message
_SHOWN_UNMATCHED = 3
_MAX_FIELD = 1 << 17  # characters of a caption


class CsvColumn:
    """The column `column` of a CSV file (UTF-8, a header line), found by the sample's key in the column `key`.

    A key may be written with the ending of its image: `cats/0001.jpg` is the sample `cats/0001`. The table is held in
    memory. ValueError for a table that is not whole, or for keys in several rows, unless `several` makes these the
    captions of one sample.
    """

    extensions: tuple[str, ...] = ()

    def __init__(self, path: str, column: str = "caption", key: str = "key", several: bool = False) -> None:
        file = Path(path)
        self._rows: dict[str, list[bytes]] = {}
        for name, text in _rows(file, column, key):
            self._rows.setdefault(name, []).append(text)
        if not several:
            _refuse_repeated(file, [name for name, texts in self._rows.items() if len(texts) > 1])
        self.keys: AbstractSet[str] | None = self._rows.keys()
        self.name = f"row of its key in {file}"
        self.settings = f"csv {file_sha256(file)}: {column} by {key}"

    def texts(self, members: Mapping[str, bytes], key: str) -> list[str]:
        return [decode(text) for text in self._rows.get(key, ())]

    def is_utf8(self, members: Mapping[str, bytes], key: str) -> bool:
        return all(map(is_utf8, self._rows.get(key, ())))


def check_keys(captions: Captions, collection: Collection) -> None:
    """Warns of samples without a row, and of rows without a sample; with captions of a table alone.

    DataError where not one sample has a row: then their keys are written in another way.
    """
    if captions.keys is None:
        return
    keys = list(captions.keys)
    of_rows = np.array([Collection.hash(key) for key in keys], np.uint64)
    of_samples = collection.arrays["hashes"]
    samples = np.flatnonzero(~np.isin(of_samples, of_rows))
    rows = np.flatnonzero(~np.isin(of_rows, of_samples))
    some = collection.keys(samples[:_SHOWN_UNMATCHED])
    if len(samples) == len(collection):
        row = f"such as {shown(keys[0])!r}" if keys else "none at all"
        raise DataError(
            f"no sample has a {captions.source.name}: samples are called such as {shown(some[0])!r}, and the table names "
            f"{row}; data.captions.source.key is the column of keys or file names"
        )
    if len(samples):
        log.warning(
            "%d of %d samples have no %s: %s",
            len(samples),
            len(collection),
            captions.source.name,
            _some(some, len(samples)),
        )
    if len(rows):
        unused = (keys[row] for row in rows[:_SHOWN_UNMATCHED])
        log.warning(
            "%d of %d keys belong to no sample (%s): %s",
            len(rows),
            len(keys),
            captions.source.name,
            _some(unused, len(rows)),
        )


def _rows(file: Path, column: str, key: str) -> Iterator[tuple[str, bytes]]:
    """(key of the sample, caption in the file's own bytes)"""
    csv.field_size_limit(_MAX_FIELD)  # one for the process: preparing sets another
    try:
        with file.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as stream:
            # strict: a quote that is never closed would swallow the rows after it
            rows = csv.reader(stream, delimiter="\t" if file.suffix == ".tsv" else ",", strict=True)
            header = next(rows, [])
            places = [_place(file, header, name) for name in (key, column)]
            for row in rows:
                if row and len(row) != len(header):
                    raise ValueError(f"{file}, line {rows.line_num}: {len(row)} fields where {len(header)} are named")
                if row:
                    name, text = (row[place].encode("utf-8", "surrogateescape") for place in places)
                    yield sample_key(name.decode("utf-8", "replace")), text
    except OSError as error:
        raise ValueError(f"data.captions.source.path={file}: {error.strerror or error}") from error
    except csv.Error as error:
        raise ValueError(f"{file}, line {rows.line_num}: {error}") from error


def sample_key(name: str) -> str:
    """`folder/name.jpg` -> `folder/name`: what WebDataset makes of a member's name."""
    folder, slash, last = name.rpartition("/")
    return folder + slash + last.split(".", 1)[0]


def _place(file: Path, header: list[str], name: str) -> int:
    if header.count(name) != 1:
        names = shown(", ".join(header))
        raise ValueError(
            f"{file} has {header.count(name)} columns {name!r}: it has the columns {names or 'of no header'}"
        )
    return header.index(name)


def _refuse_repeated(file: Path, keys: list[str]) -> None:
    if keys:
        some = ", ".join(map(shown, keys[:_SHOWN])) + (", ..." if len(keys) > _SHOWN else "")
        raise ValueError(
            f"{file}: {len(keys)} keys stand in several rows: {some}; "
            "data.captions.source.several=true makes each row a caption of its sample"
        )


def _some(names: Iterable[str], count: int) -> str:
    listed = ", ".join(shown(name) for name in islice(names, _SHOWN_UNMATCHED))
    return listed + (", ..." if count > _SHOWN_UNMATCHED else "")
