"""Read tables row by row: CSV (also with tabs or semicolons) and JSON lines."""

from __future__ import annotations

import codecs
import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

SUFFIXES = (".csv", ".tsv", ".jsonl")
MAX_METADATA = 1 << 20  # bytes of a JSON object or a field of a row


class TableRow(NamedTuple):
    """A row: `values` by column, or the `fault` of a row that does not fit its table. `line` counts from 1."""

    line: int
    values: dict[str, Any]
    fault: str = ""


def column_names(path: Path) -> list[str]:
    """Return the names of the columns. Raises ValueError if there are none, two are equal, or the text is UTF-16."""
    with path.open("rb") as start:
        if start.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            raise ValueError(f"{path} is written in UTF-16; save it as UTF-8")
    if path.suffix.lower() == ".jsonl":
        names = list(next((row.values for row in table_rows(path) if not row.fault), {}))
    else:
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            names = next(csv.reader(file, delimiter=_delimiter(path)), [])
    if not any(names):
        raise ValueError(f"{path} has no header; its first line must name the columns")
    if twice := sorted({name for name in names if name and names.count(name) > 1}):
        raise ValueError(f"{path} has several columns called {', '.join(twice)}; give each its own name")
    return names


def table_rows(path: Path) -> Iterator[TableRow]:
    """Yield the rows of a table. Raises ValueError for an unclosed quote, and as `column_names` for a CSV file."""
    return _json_rows(path) if path.suffix.lower() == ".jsonl" else _csv_rows(path)


def json_object(data: bytes) -> dict[str, Any]:
    """Parse a JSON object. Raises ValueError for anything else and for more than MAX_METADATA bytes."""
    if len(data) > MAX_METADATA:
        raise ValueError(f"JSON must have at most {MAX_METADATA} bytes, got {len(data)}")
    try:
        found = json.loads(data.decode("utf-8-sig", "replace"))
        json.dumps(found)
    except RecursionError as error:
        raise ValueError(str(error)) from None
    if not isinstance(found, dict):
        raise ValueError(f"must be an object, got a {type(found).__name__}")  # noqa: TRY004
    return found


def _json_rows(path: Path) -> Iterator[TableRow]:
    with path.open("rb") as file:
        for number, line in enumerate(iter(lambda: file.readline(MAX_METADATA + 2), b""), 1):
            if line.strip():
                try:
                    yield TableRow(number, json_object(line))
                except ValueError as error:
                    yield TableRow(number, {}, str(error)[:200])


def _csv_rows(path: Path) -> Iterator[TableRow]:
    csv.field_size_limit(MAX_METADATA)
    names = column_names(path)
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        # strict: otherwise an unclosed quote would absorb the rows after it
        reader = csv.reader(file, delimiter=_delimiter(path), strict=True)
        try:
            next(reader)
            for values in filter(None, reader):
                fits = len(values) == len(names)
                fault = (
                    "" if fits else f"{len(values)} fields, but the header has {len(names)}; quote text with separators"
                )
                yield TableRow(reader.line_num, dict(zip(names, values, strict=False)), fault)
        except csv.Error as error:
            raise ValueError(f"{path} line {reader.line_num}: {error}; is a quote not closed?") from error


def _delimiter(path: Path) -> str:
    """Return the separator that occurs most often in the header."""
    with path.open(encoding="utf-8-sig", errors="surrogateescape") as file:
        line = file.readline(MAX_METADATA)
    return max(",;\t", key=line.count)
