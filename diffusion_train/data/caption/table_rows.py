"""Read tables row by row: CSV (also with tabs or semicolons) and JSON lines."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from diffusion_train.utils.text import ESCAPE, encoding_of

SUFFIXES = (".csv", ".tsv", ".jsonl")
MAX_METADATA = 1 << 20  # bytes of a JSON object or a field of a row


class TableRow(NamedTuple):
    """A row: `values` by column, or the `fault` of a row that does not fit its table. `line` counts from 1."""

    line: int
    values: dict[str, Any]
    fault: str = ""


def column_names(path: Path, encoding: str | None = None) -> list[str]:
    """Return the names of the columns. Raises ValueError if there are none or two are equal."""
    if path.suffix.lower() == ".jsonl":
        names = list(next((row.values for row in table_rows(path, encoding) if not row.fault), {}))
    else:
        with _open(path, encoding) as file:
            names = next(csv.reader(file, delimiter=_delimiter(path, encoding)), [])
    if not any(names):
        raise ValueError(f"{path} has no header; its first line must name the columns")
    if twice := sorted({name for name in names if name and names.count(name) > 1}):
        raise ValueError(f"{path} has several columns called {', '.join(twice)}; give each its own name")
    return names


def table_rows(path: Path, encoding: str | None = None) -> Iterator[TableRow]:
    """Yield the rows of a table in `encoding`, by default UTF-8 or that of its byte order mark.

    Raises ValueError for an unclosed quote, and as `column_names` for a CSV file.
    """
    return _json_rows(path, encoding) if path.suffix.lower() == ".jsonl" else _csv_rows(path, encoding)


def json_object(text: str) -> dict[str, Any]:
    """Parse a JSON object. Raises ValueError for anything else and for more than MAX_METADATA characters."""
    if len(text) > MAX_METADATA:
        raise ValueError(f"JSON must have at most {MAX_METADATA} characters, got {len(text)}")
    try:
        found = json.loads(text)
        json.dumps(found)
    except RecursionError as error:
        raise ValueError(str(error)) from None
    if not isinstance(found, dict):
        raise ValueError(f"must be an object, got a {type(found).__name__}")  # noqa: TRY004
    return found


def _json_rows(path: Path, encoding: str | None) -> Iterator[TableRow]:
    with _open(path, encoding, newline="\n") as file:
        for number, line in enumerate(iter(lambda: file.readline(MAX_METADATA + 2), ""), 1):
            if line.strip():
                try:
                    yield TableRow(number, json_object(line))
                except ValueError as error:
                    yield TableRow(number, {}, str(error)[:200])


def _csv_rows(path: Path, encoding: str | None) -> Iterator[TableRow]:
    csv.field_size_limit(MAX_METADATA)
    names = column_names(path, encoding)
    with _open(path, encoding) as file:
        # strict: otherwise an unclosed quote would absorb the rows after it
        reader = csv.reader(file, delimiter=_delimiter(path, encoding), strict=True)
        try:
            next(reader)
            for values in filter(None, reader):
                fits = len(values) == len(names)
                fault = (
                    ""
                    if fits
                    else f"{len(values)} fields, but the header has {len(names)}; "
                    "put text that contains the separator in quotes"
                )
                yield TableRow(reader.line_num, dict(zip(names, values, strict=False)), fault)
        except csv.Error as error:
            raise ValueError(f"{path} line {reader.line_num}: {error}; is a quote not closed?") from error


def _open(path: Path, encoding: str | None, newline: str = "") -> TextIO:
    with path.open("rb") as file:
        start = file.read(4)
    return path.open(encoding=encoding_of(start, encoding), errors=ESCAPE, newline=newline)


def _delimiter(path: Path, encoding: str | None) -> str:
    """Return the separator that occurs most often in the header."""
    with _open(path, encoding) as file:
        line = file.readline(MAX_METADATA)
    return max(",;\t", key=line.count)
