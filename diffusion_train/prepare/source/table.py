"""Tables of captions and metadata as sources of samples: which column holds what, and rows whose image is a file."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

from diffusion_train.data.caption.table_rows import SUFFIXES, TableRow, column_names, table_rows
from diffusion_train.prepare.image.formats import most_bytes
from diffusion_train.prepare.source.base import (
    Entry,
    LeftOut,
    Record,
    caption_from,
    check_encoding,
    file_state,
    read_file,
)
from diffusion_train.prepare.source.misnamed import images_in, missing
from diffusion_train.rights.image_rights import AUTHOR_FIELDS, LICENSE_FIELDS, OWNER_FIELDS, SOURCE_FIELDS, Rights
from diffusion_train.rights.validity import EXPIRY_FIELDS, PEOPLE_FIELDS, RELEASE_FIELDS

USUAL = {
    "image": ("image", "file_name", "filename", "image_path", "image_file", "filepath", "path", "file", "jpg", "png"),
    "caption": ("caption", "captions", "text", "txt", "prompt", "description"),
    "key": (),
    "license": LICENSE_FIELDS,
    "author": AUTHOR_FIELDS,
    "source": SOURCE_FIELDS,
    "owner": OWNER_FIELDS,
    "license_expires": EXPIRY_FIELDS,
    "people": PEOPLE_FIELDS,
    "model_release": RELEASE_FIELDS,
}


@dataclass(frozen=True)
class Columns:
    """The names of the columns. None means the first column with a usual name, "" that there is no such column."""

    image: str | None = None
    caption: str | None = None
    key: str | None = None
    license: str | None = None
    author: str | None = None
    source: str | None = None
    owner: str | None = None
    license_expires: str | None = None
    people: str | None = None
    model_release: str | None = None

    def among(self, names: Sequence[str], where: str, needed: Sequence[str] = ("image", "caption")) -> Columns:
        """Return the columns among `names`, with "" for missing ones.

        Raises ValueError if a column that is named or `needed` is missing; `where` is the table in its message.
        """
        there = {name.casefold(): name for name in reversed(names)}
        chosen: dict[str, str] = {}
        wrong = []
        for field in fields(self):
            asked = getattr(self, field.name)
            usual = next((there[name] for name in USUAL[field.name] if name in there), "")
            chosen[field.name] = usual if asked is None else asked
            if asked and asked not in names:
                wrong.append(f"source.columns.{field.name}={asked}: no such column")
            elif asked is None and not usual and field.name in needed:
                remedy = ', or "" if there is none' if field.name == "caption" else ""
                wrong.append(f"no column for the {field.name}: give source.columns.{field.name}=<its name>{remedy}")
        if wrong:
            raise ValueError("\n".join([*wrong, f"the columns of {where}: {', '.join(names)}"]))
        return replace(self, **chosen)

    def facts(self, row: dict[str, Any]) -> dict[str, Any]:
        """Return the metadata in a row: all columns except image and caption, with rights under their own names.

        A list of several captions is kept under the name of its column.
        """
        facts = {name: value for name, value in row.items() if name not in (self.image, self.caption)}
        if isinstance(several := row.get(self.caption or ""), list):
            facts[str(self.caption)] = several
        for name in Rights._fields:
            if column := getattr(self, name):
                facts[name] = row.get(column)
        return facts


USUAL_COLUMNS = Columns()


@dataclass(frozen=True)
class Csv:
    """A table (CSV or JSON lines) whose rows name image files, relative to `images`, by default the table's folder.

    Raises ValueError if the file or a column is missing, or if there are no rows.
    """

    path: str
    images: str | None = None
    columns: Columns = USUAL_COLUMNS
    encoding: str | None = None

    def __post_init__(self) -> None:
        check_encoding(self.encoding)
        path = Path(self.path)
        if path.is_dir():
            raise ValueError(f"path={self.path}: is a folder; for the images in it use source=folder")
        if not path.is_file() or path.suffix.lower() not in SUFFIXES:
            problem = f"must end in {', '.join(SUFFIXES)}" if path.is_file() else "no such file"
            raise ValueError(f"path={self.path}: {problem}")
        if next(self._rows(), None) is None:
            raise ValueError(f"path={self.path}: the table has no rows")
        self._columns()

    def total(self) -> int:
        return sum(1 for _ in self._rows())

    def entries(self, skip: int = 0) -> Iterator[Entry]:
        state = file_state(Path(self.path))
        columns, folder = self._columns(), Path(self.images or Path(self.path).parent)
        for line, row, fault in self._rows():
            where = f"{Path(self.path).name} line {line}"
            if fault:
                yield Entry(where, LeftOut("bad-row", fault))
            else:
                yield table_entry(row, columns, folder, where)._replace(opened=[state])

    def _rows(self) -> Iterator[TableRow]:
        return table_rows(Path(self.path), self.encoding)

    def _columns(self) -> Columns:
        return self.columns.among(column_names(Path(self.path), self.encoding), self.path)


def table_entry(row: dict[str, Any], columns: Columns, folder: Path, where: str) -> Entry:
    """Return the entry of a row whose image is a file in `folder`."""
    file = str(row.get(columns.image or "") or "").strip()
    if not file:
        return Entry(where, LeftOut("no-image", "the row names no image"))
    if "://" in file:
        return Entry(where, LeftOut("address", file[:200]))
    key = str(row.get(columns.key or "") or "") or str(Path(file).with_suffix(""))
    facts = {"file": file} | columns.facts(row)
    read = partial(read_row, folder / file, row.get(columns.caption or ""), facts)
    return Entry(f"{where}: {file}", read, key, [folder / file])


def read_row(file: Path, caption: object, facts: dict[str, Any]) -> Record:
    """Read the image of a row. Raises LeftOut, for a missing file with the name that may be meant."""
    if not os.path.lexists(file):
        raise LeftOut("no-image", missing(file.name, images_in(file.parent)))
    return Record(read_file(file, most_bytes(file.name)), caption_from(caption), facts)
