"""Captions in a table beside the shards."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from diffusion_train.data.caption.captions import Captions
from diffusion_train.data.caption.fault import CaptionError, caption_text, decode
from diffusion_train.data.caption.table_rows import column_names, table_rows
from diffusion_train.data.shard.catalog import Catalog
from diffusion_train.data.shard.problem import DataError
from diffusion_train.utils.files import file_sha256
from diffusion_train.utils.text import clean_text, printable

log = logging.getLogger(__name__)
_SHOWN = 5  # keys in a message
_SHOWN_UNMATCHED = 3


class CsvColumn:
    """Captions in column `column` of a table (CSV or JSON lines); column `key` has the key of the sample.

    A key may have the extension of its image: `cats/0001.jpg` is the sample `cats/0001`. The table is read on first use
    and kept in memory. Raises ValueError for a damaged table, and for a key in several rows unless `several` is set,
    which makes them several captions of one sample.
    """

    extensions: tuple[str, ...] = ()

    def __init__(self, path: str, column: str = "caption", key: str = "key", several: bool = False) -> None:
        self._file, self._column, self._key, self._several = Path(path), column, key, several
        self.name = f"row in {self._file}"

    @cached_property
    def settings(self) -> str:
        return f"csv {file_sha256(self._file)}: {self._column} by {self._key}"

    @cached_property
    def _rows(self) -> dict[str, list[bytes]]:
        rows: dict[str, list[bytes]] = {}
        for name, text in _rows(self._file, self._column, self._key):
            rows.setdefault(name, []).append(text)
        repeated = [name for name, texts in rows.items() if len(texts) > 1]
        if repeated and not self._several:
            raise ValueError(
                f"{self._file}: {len(repeated)} keys are in several rows: {_some(repeated[:_SHOWN], len(repeated))}; "
                "remove all but one, or use all of them with data.captions.source.several=true"
            )
        return rows

    def has(self, key: str) -> bool:
        return key in self._rows

    def keys(self) -> list[str]:
        return list(self._rows)

    def texts(self, members: Mapping[str, bytes], key: str) -> list[str]:
        return [decode(text) for text in self._rows.get(key, ())]


def check_keys(captions: Captions, catalog: Catalog) -> None:
    """Warn about samples without a row and rows without a sample, if the captions are in a table.

    Raises DataError if no sample has a row, because the keys then have another form.
    """
    if (keys := captions.keys()) is None:
        return
    of_rows = np.array([Catalog.hash(key) for key in keys], np.uint64)
    of_samples = catalog.arrays["hashes"]
    samples = np.flatnonzero(~np.isin(of_samples, of_rows))
    rows = np.flatnonzero(~np.isin(of_rows, of_samples))
    some = catalog.keys(samples[:_SHOWN_UNMATCHED])
    if len(samples) == len(catalog):
        row = f"keys in the table look like {printable(keys[0])!r}" if keys else "the table has no rows"
        raise DataError(
            f"no sample has a {captions.source.name}: keys of samples look like {printable(some[0])!r}, but {row}; "
            "set data.captions.source.key to the column of keys or file names"
        )
    if len(samples):
        log.warning(
            "%d of %d samples have no %s: %s",
            len(samples),
            len(catalog),
            captions.source.name,
            _some(some, len(samples)),
        )
    if len(rows):
        unused = [keys[row] for row in rows[:_SHOWN_UNMATCHED]]
        log.warning(
            "%d of %d keys with a %s belong to no sample: %s",
            len(rows),
            len(keys),
            captions.source.name,
            _some(unused, len(rows)),
        )


def _rows(file: Path, column: str, key: str) -> Iterator[tuple[str, bytes]]:
    """Yield (key of the sample, caption in UTF-8) of each row with a caption."""
    try:
        names = column_names(file)
        if missing := [name for name in (key, column) if name not in names]:
            raise ValueError(f"{file} has no column {missing[0]!r}; its columns: {printable(', '.join(names))}")
        for line, row, fault in table_rows(file):
            try:
                name, text = caption_text(row.get(key)), caption_text(row.get(column))
            except CaptionError as error:
                fault = f"{key} and {column}: {error}"
            if fault or not name:
                raise ValueError(f"{file} line {line}: {fault or f'{key} must not be empty'}")
            if text is not None:
                yield sample_key(clean_text(name)), clean_text(text).encode()
    except OSError as error:
        raise ValueError(f"data.captions.source.path={file}: {error.strerror or error}") from error


def sample_key(name: str) -> str:
    """Return the key of a file name by WebDataset's rule: `folder/name` for `folder/name.jpg`."""
    folder, slash, last = name.rpartition("/")
    return folder + slash + last.split(".", 1)[0]


def _some(names: Sequence[str], count: int) -> str:
    """Return `names`, the first of `count`, as text."""
    return ", ".join(map(printable, names)) + (", ..." if count > len(names) else "")
