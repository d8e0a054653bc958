"""Parquet files with images as bytes (or as {bytes, path}, as on the Hugging Face hub) or as paths of files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from diffusion_train.prepare.image.formats import converted_format, most_bytes
from diffusion_train.prepare.source.base import Entry, LeftOut, Record, caption_from, file_state, require
from diffusion_train.prepare.source.table import USUAL_COLUMNS, Columns, table_entry

_ROWS_AT_ONCE = 32  # rows whose images are in memory at a time


@dataclass(frozen=True)
class Parquet:
    """One file, or all *.parquet of a folder; image paths are relative to `images`, by default to the file's folder.

    Raises ValueError if pyarrow, a file or a column is missing, or if there are no rows.
    """

    path: str
    images: str | None = None
    columns: Columns = USUAL_COLUMNS

    def __post_init__(self) -> None:
        if not self._files():
            raise ValueError(f"path={self.path}: contains no .parquet file")
        for file in self._files():
            self._columns(file)
        if not self.total():
            raise ValueError(f"path={self.path}: the table has no rows")

    def total(self) -> int:
        return sum(_open(file).metadata.num_rows for file in self._files())

    def entries(self, skip: int = 0) -> Iterator[Entry]:
        """Yield an entry for each row; embedded images of skipped row groups are not read."""
        for file in self._files():
            state = file_state(file)
            columns, table = self._columns(file), _open(file)
            first = 0
            for group in range(table.num_row_groups):
                count = table.metadata.row_group(group).num_rows
                light = skip >= count and not _holds_paths(table, columns.image)
                for number, row in enumerate(_rows(table, group, columns.image if light else None), first):
                    yield self._entry(row, columns, file, number)._replace(opened=[state])
                first += count
                skip = max(skip - count, 0)

    def _entry(self, row: dict[str, Any], columns: Columns, file: Path, number: int) -> Entry:
        where = f"{file.name} row {number}"
        image = row.get(columns.image or "")
        if isinstance(image, str):
            return table_entry(row, columns, Path(self.images or file.parent), where)
        facts = {"file": file.name, "row": number} | columns.facts(row)
        if isinstance(image, dict):
            facts |= {"path": image.get("path")}
            image = image.get("bytes")
        key = str(row.get(columns.key or "") or f"{file.stem}/{number:08d}")
        if not isinstance(image, bytes) and (row.get("status") or "success") != "success":  # as img2dataset writes it
            return Entry(where, LeftOut("not-downloaded", str(row.get("error_message") or row["status"])[:200]), key)
        if not isinstance(image, bytes):
            return Entry(where, LeftOut("no-image", f"column {columns.image} has no image"), key)
        return Entry(where, partial(embedded_image, image, row.get(columns.caption or ""), facts), key)

    def _files(self) -> list[Path]:
        path = Path(self.path)
        found = [path] if path.suffix == ".parquet" else sorted(path.rglob("*.parquet"))
        return [file for file in found if file.is_file()]

    def _columns(self, file: Path) -> Columns:
        return self.columns.among(_open(file).schema_arrow.names, str(file))


def embedded_image(image: bytes, caption: object, facts: dict[str, Any]) -> Record:
    """Return the record of an image in a row. Raises LeftOut if it is too large."""
    if len(image) > most_bytes(converted_format(image) or ""):
        raise LeftOut("too-many-bytes", f"{len(image)} bytes")
    return Record(image, caption_from(caption), facts)


def _rows(table: Any, group: int, without: str | None) -> Iterator[dict[str, Any]]:
    names = [name for name in table.schema_arrow.names if name != without]
    if not names:
        yield from ({} for _ in range(table.metadata.row_group(group).num_rows))
        return
    for batch in table.iter_batches(_ROWS_AT_ONCE, row_groups=[group], columns=names):
        yield from batch.to_pylist()


def _holds_paths(table: Any, image: str | None) -> bool:
    return str(table.schema_arrow.field(image).type) in ("string", "large_string")


def _open(file: Path) -> Any:
    parquet = require("pyarrow.parquet", "parquet")
    try:
        return parquet.ParquetFile(file, memory_map=True)
    except (OSError, ValueError) as error:  # pyarrow's own errors are both
        raise ValueError(f"{file} is not a parquet file: {error}") from error
