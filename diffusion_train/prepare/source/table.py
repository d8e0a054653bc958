"""Tables of captions and facts: CSV (also with tabs or semicolons) and JSON lines, read a row at a time."""

from __future__ import annotations

import codecs
import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from diffusion_train.prepare.rights import AUTHOR_FIELDS, LICENSE_FIELDS, SOURCE_FIELDS
from diffusion_train.prepare.source.base import (
    MAX_METADATA,
    Entry,
    LeftOut,
    Record,
    file_state,
    parse_metadata,
    read_file,
)

SUFFIXES = (".csv", ".tsv", ".jsonl")
USUAL = {
    "image": ("image", "file_name", "filename", "image_path", "image_file", "filepath", "path", "file", "jpg", "png"),
    "caption": ("caption", "captions", "text", "txt", "prompt", "description"),
    "key": (),
    "license": LICENSE_FIELDS,
    "author": AUTHOR_FIELDS,
    "source": SOURCE_FIELDS,
}


@dataclass(frozen=True)
class Columns:
    """Which column holds what. None: the first one there with a usual name; "": none."""

    image: str | None = None
    caption: str | None = None
    key: str | None = None
    license: str | None = None
    author: str | None = None
    source: str | None = None

    def among(self, names: Sequence[str], where: str, needed: Sequence[str] = ("image", "caption")) -> Columns:
        """With the columns that are there in place of None. ValueError for one that is named or needed and missing."""
        there = {name.casefold(): name for name in reversed(names)}
        chosen: dict[str, str] = {}
        wrong = []
        for field in fields(self):
            asked = getattr(self, field.name)
            usual = next((there[name] for name in USUAL[field.name] if name in there), "")
            chosen[field.name] = usual if asked is None else asked
            if asked and asked not in names:
                wrong.append(f"source.columns.{field.name}={asked}: there is no such column")
            elif asked is None and not usual and field.name in needed:
                remedy = ', or "" if there is none' if field.name == "caption" else ""
                wrong.append(f"no column for the {field.name}: give source.columns.{field.name}=<its name>{remedy}")
        if wrong:
            raise ValueError("\n".join([*wrong, f"the columns of {where}: {', '.join(names)}"]))
        return replace(self, **chosen)

    def facts(self, row: dict[str, Any]) -> dict[str, Any]:
        """What goes into a sample's metadata: all but image and caption, rights under their own names; captions where there are several."""
        facts = {name: value for name, value in row.items() if name not in (self.image, self.caption)}
        if isinstance(several := row.get(self.caption or ""), list):
            facts[str(self.caption)] = several
        for name in ("license", "author", "source"):
            if column := getattr(self, name):
                facts[name] = row.get(column)
        return facts


USUAL_COLUMNS = Columns()


def caption_of(row: dict[str, Any], columns: Columns) -> str | None:
    """Of a list of captions the first one that says something. An object is no caption."""
    caption = row.get(columns.caption or "")
    if isinstance(caption, list):
        caption = next((text for text in caption if isinstance(text, str) and text.strip()), None)
    return None if caption is None or isinstance(caption, dict) else str(caption)


@dataclass(frozen=True)
class Csv:
    """A table whose rows name image files: absolute, or relative to `images`, by default the table's own folder.

    Also JSON lines. ValueError where the file or a column is missing.
    """

    path: str
    images: str | None = None
    columns: Columns = USUAL_COLUMNS

    def __post_init__(self) -> None:
        path = Path(self.path)
        if path.is_dir():
            raise ValueError(f"path={self.path}: a folder; source=folder reads the images in it")
        if not path.is_file() or path.suffix.lower() not in SUFFIXES:
            problem = f"not one of {', '.join(SUFFIXES)}" if path.is_file() else "no such file"
            raise ValueError(f"path={self.path}: {problem}")
        if next(rows(path), None) is None:
            raise ValueError(f"path={self.path}: the table has no rows")
        self._columns()

    def total(self) -> int:
        return sum(1 for _ in rows(Path(self.path)))

    def entries(self, skip: int = 0) -> Iterator[Entry]:
        state = file_state(Path(self.path))
        columns, folder = self._columns(), Path(self.images or Path(self.path).parent)
        for number, row in rows(Path(self.path)):
            if isinstance(row, LeftOut):
                yield Entry(f"{Path(self.path).name} line {number}", row)
            else:
                entry = table_entry(row, columns, folder, f"{Path(self.path).name} line {number}")
                yield entry._replace(opened=[state])

    def _columns(self) -> Columns:
        return self.columns.among(header(Path(self.path)), self.path)


def table_entry(row: dict[str, Any], columns: Columns, folder: Path, where: str) -> Entry:
    """A row whose image is a file."""
    file = str(row.get(columns.image or "") or "").strip()
    if not file:
        return Entry(where, LeftOut("no-image", "the row names no image"))
    if "://" in file:
        return Entry(where, LeftOut("address", file[:200]))
    key = str(row.get(columns.key or "") or "") or str(Path(file).with_suffix(""))
    facts = {"file": file} | columns.facts(row)
    read = partial(read_row, folder / file, caption_of(row, columns), facts)
    return Entry(f"{where}: {file}", read, key, [folder / file])


def read_row(file: Path, caption: str | None, facts: dict[str, Any]) -> Record:
    return Record(read_file(file), caption, facts)


class Line(NamedTuple):
    number: int
    values: dict[str, Any] | LeftOut


def header(path: Path) -> list[str]:
    """Names of the columns. ValueError if there are none, or the text is UTF-16."""
    with path.open("rb") as start:
        if start.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            raise ValueError(f"{path} is written in UTF-16: save it as UTF-8")
    if path.suffix.lower() == ".jsonl":
        names = next((list(line.values) for line in rows(path) if isinstance(line.values, dict)), [])
    else:
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            names = next(csv.reader(file, delimiter=_delimiter(path)), [])
    if not any(names):
        raise ValueError(f"{path} has no header: its first line names the columns")
    if twice := sorted({name for name in names if name and names.count(name) > 1}):
        raise ValueError(f"{path} has several columns called {', '.join(twice)}: give each a name of its own")
    return names


def rows(path: Path) -> Iterator[Line]:
    """(line, {column: value}) or, for a row that does not fit, what is wrong. ValueError for an unclosed quote."""
    return _json_rows(path) if path.suffix.lower() == ".jsonl" else _csv_rows(path)


def _json_rows(path: Path) -> Iterator[Line]:
    with path.open("rb") as file:
        for number, line in enumerate(iter(partial(file.readline, MAX_METADATA + 2), b""), 1):
            try:
                if line.strip():
                    yield Line(number, parse_metadata(line))
            except LeftOut as fault:
                yield Line(number, LeftOut("bad-row", fault.detail))


def _csv_rows(path: Path) -> Iterator[Line]:
    csv.field_size_limit(MAX_METADATA)
    names = header(path)
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        reader = csv.reader(file, delimiter=_delimiter(path), strict=True)
        try:
            next(reader)
            for values in reader:
                if values and len(values) != len(names):
                    detail = f"{len(values)} fields where the header has {len(names)}: quote text with separators"
                    yield Line(reader.line_num, LeftOut("bad-row", detail))
                elif values:
                    yield Line(reader.line_num, dict(zip(names, values, strict=True)))
        except csv.Error as error:
            raise ValueError(f"{path} line {reader.line_num}: {error}; is a quote not closed?") from error


def _delimiter(path: Path) -> str:
    """The one that the header has most of."""
    with path.open(encoding="utf-8-sig", errors="surrogateescape") as file:
        line = file.readline(MAX_METADATA)
    return max(",;\t", key=line.count)
