"""A folder of images with all its subfolders, and captions beside them."""

from __future__ import annotations

import io
import os
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from diffusion_train.data.caption.table_rows import MAX_METADATA, column_names, table_rows
from diffusion_train.data.image.decode import OTHER_IMAGES
from diffusion_train.prepare.image.formats import READABLE, extension, most_bytes
from diffusion_train.prepare.source.base import (
    Entry,
    FileState,
    LeftOut,
    Record,
    caption_from,
    check_encoding,
    file_state,
    parse_metadata,
    read_file,
)
from diffusion_train.prepare.source.folder_files import SIDE_FILES, Files, files_by_folder
from diffusion_train.prepare.source.misnamed import Names
from diffusion_train.prepare.source.table import USUAL, USUAL_COLUMNS, Columns
from diffusion_train.rights.image_rights import rights_of
from diffusion_train.rights.license import both
from diffusion_train.utils.text import argument, decode_text

PLACES = ("txt", "caption", "table", "json", "name", "prompt")
_GUESSES = 100  # rows without an image for which a similar name is looked for; looking for more takes too long
_DRAWN = {"run", "weights", "sampler", "guidance"}  # texts in every PNG of sample.py; in its samples also their prompt
Facts = dict[str, Any]


@dataclass(frozen=True)
class Folder:
    """Images in the order of their folders and names, without hidden ones.

    `captions` lists where captions are looked for, in order of preference: txt, caption and json are files beside the
    image (img.txt or img.jpg.txt), table is captions.csv or metadata.csv (or .tsv, .jsonl) of any folder, with paths
    relative to it, name is the file's own name, and prompt is the prompt in a PNG of sample.py. Metadata comes from
    json and table, whichever gives the caption. The folder `ignore` is skipped. Raises ValueError for wrong settings.
    """

    path: str
    captions: Sequence[str] = ("txt", "caption", "table", "json")
    columns: Columns = USUAL_COLUMNS
    ignore: str | None = None
    encoding: str | None = None

    def __post_init__(self) -> None:
        check_encoding(self.encoding)
        if not Path(self.path).is_dir():
            is_file = Path(self.path).is_file()
            raise ValueError(
                f"path={self.path}: "
                f"{'is a file; for tables use source=csv or parquet' if is_file else 'no such folder'}"
            )
        if wrong := [kind for kind in self.captions if kind not in PLACES]:
            raise ValueError(f"source.captions: must be among {', '.join(PLACES)}, got {', '.join(wrong)}")
        _ = self._table  # read now, so that mistakes in tables are reported before images are read

    def total(self) -> int:
        in_folders = sum(bool(folder.fault) + len(folder.images) + len(folder.others) for folder in self._folders)
        return in_folders + len(self._imageless) + len(self._table.faults)

    def entries(self, skip: int = 0) -> Iterator[Entry]:
        """Yield images and other files folder by folder, then rows of tables without an image, then faulty rows."""
        for folder in self._folders:
            if folder.fault:
                yield Entry(folder.path, folder.fault)
            yield from (self._image(folder, name) for name in folder.images)
            yield from (_other(folder, name) for name in folder.others)
        names = Names(self._image_names)
        for number, (path, row) in enumerate(self._imageless.items()):
            yield Entry(row.where, LeftOut("no-image", names.missing(path, guess=number < _GUESSES)))
        yield from self._table.faults

    def repeats(self) -> str:
        """Return commands that repeat the images of folders called 10_word as kohya's scripts do;
        "" if all are alike.
        """
        counts: dict[str, int] = {}
        words = []
        for folder in self._folders:
            if folder.images and (match := re.fullmatch(r"(\d+)_(.+)", folder.path)):
                word = re.sub(r"\W+", "_", match[2]) + "_" * (match[2] in counts)
                counts[word] = int(match[1])
                out = argument("out", f"prepared_{word}")
                words.append(f"diffusion-train prepare {argument('path', Path(self.path) / folder.path)} {out}")
        if len(set(counts.values())) < 2:
            return ""
        shards = ", ".join(f"{word}: 'prepared_{word}/*.tar'" for word in counts)
        repeats = ", ".join(f"{word}: {count}" for word, count in counts.items())
        words.append(f'python train.py "data.shards={{{shards}}}" "data.repeats={{{repeats}}}"')
        return "folders called 10_word are not repeated; to repeat them as kohya's scripts do:\n  " + "\n  ".join(words)

    def _image(self, folder: Files, name: str) -> Entry:
        path = folder.below(name)
        found = {kind: folder.beside(name, kind) for kind in SIDE_FILES if kind in (*self.captions, "json")}
        root = Path(self.path)
        beside = {kind: root / file for kind, file in found.items() if file}
        row = self._table.rows.get(_same_name(path), _NO_ROW)
        read = partial(read_image, root, path, beside, row, tuple(self.captions), self.columns.caption, self.encoding)
        files = [root / path, *beside.values()]
        return Entry(path, read, os.path.splitext(path)[0], files, row.table)

    @cached_property
    def _folders(self) -> list[Files]:
        return list(files_by_folder(Path(self.path), Path(self.ignore) if self.ignore else None))

    @cached_property
    def _image_names(self) -> set[str]:
        return {_same_name(folder.below(name)) for folder in self._folders for name in folder.images}

    @cached_property
    def _imageless(self) -> dict[str, Row]:
        """The rows of tables whose image does not exist, by its path."""
        return {path: row for path, row in self._table.rows.items() if path not in self._image_names}

    @cached_property
    def _table(self) -> _Table:
        table = _Table()
        if "table" in self.captions:
            for folder in self._folders:
                for name in folder.tables:
                    table.add(Path(self.path), folder.below(name), folder.path, self.columns, self.encoding)
        return table


class Row(NamedTuple):
    """The row of an image in a table; `where` names table and line."""

    where: str
    caption: object
    facts: Facts
    table: tuple[FileState, ...]


_NO_ROW = Row("", "", {}, ())


def read_image(
    root: Path,
    path: str,
    beside: Mapping[str, Path],
    row: Row,
    order: Sequence[str],
    caption_field: str | None,
    encoding: str | None,
) -> Record:
    """Read an image and its caption; `path` is relative to `root`, `beside` are its side files. Raises LeftOut."""
    data = {kind: read_file(file, MAX_METADATA) for kind, file in beside.items()}
    facts = parse_metadata(data["json"], encoding) if "json" in data else {}
    captions: dict[str, object] = {
        **{kind: decode_text(data.get(kind, b""), encoding).strip() for kind in ("txt", "caption")},
        "table": row.caption,
        "json": _caption(facts, (caption_field,) if caption_field else USUAL["caption"]),
        "name": os.path.splitext(os.path.basename(path))[0].replace("_", " "),
    }
    image = read_file(root / path, most_bytes(extension(path)))
    texts = _png_texts(image)
    if texts.keys() >= _DRAWN and "prompt" not in texts:
        raise LeftOut("not-a-sample", "a grid of samples by sample.py")
    captions["prompt"] = texts.get("prompt", "")
    texts_in_order = (caption_from(captions[kind]) for kind in order)
    caption = next((text for text in texts_in_order if text and text.strip()), None)
    return Record(image, caption, _together(facts, row.facts) | {"file": path})


def _together(beside: Facts, row: Facts) -> Facts:
    """Merge metadata; empty cells are ignored. If the JSON file and the table name different licences, both apply."""
    facts = beside | {name: value for name, value in row.items() if name not in beside or value not in (None, "")}
    licenses = [rights_of(said).license for said in (beside, row)]
    together = both(*licenses)
    return facts if together in licenses else facts | {"license": together}


@dataclass
class _Table:
    """All tables together. `rows` maps a path relative to the root, normalised by `_same_name`, to its row."""

    rows: dict[str, Row] = field(default_factory=dict)
    faults: list[Entry] = field(default_factory=list)

    def add(self, root: Path, table: str, folder: str, columns: Columns, encoding: str | None) -> None:
        """Add the rows of a table. Raises ValueError if a column is missing."""
        state = (file_state(root / table),)
        chosen = columns.among(column_names(root / table, encoding), table, needed=("image",))
        for line, values, fault in table_rows(root / table, encoding):
            where = f"{table} line {line}"
            if fault:
                self.faults.append(Entry(where, LeftOut("bad-row", fault)))
                continue
            path = _same_name(os.path.normpath(os.path.join(folder, str(values.get(chosen.image or "")))))
            if path in self.rows:
                again = LeftOut("named-twice", f"{path[:200]} is listed twice, first in {self.rows[path].where}")
                self.faults.append(Entry(where, again))
                continue
            self.rows[path] = Row(where, values.get(chosen.caption or ""), chosen.facts(values), state)


def _other(folder: Files, name: str) -> Entry:
    kind = extension(name)
    if kind in OTHER_IMAGES:
        reason = LeftOut("unknown-format", f"{kind}; supported are {', '.join(READABLE)}")
    else:
        reason = LeftOut("not-a-sample", "no image of this name" if kind in SIDE_FILES else "")
    return Entry(folder.below(name), reason)


def _same_name(path: str) -> str:
    return unicodedata.normalize("NFC", path.replace("\\", "/"))


def _png_texts(image: bytes) -> dict[str, str]:
    """Return the texts in a PNG, empty for any other file."""
    try:
        with Image.open(io.BytesIO(image), formats=("PNG",)) as opened:
            return {str(name): str(text) for name, text in opened.info.items()}
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return {}


def _caption(facts: Facts, names: Sequence[str]) -> object:
    """Return the first of these fields that is not empty."""
    by_name = {name.casefold(): value for name, value in facts.items()}
    values = (by_name.get(name.casefold()) for name in names)
    return next((value for value in values if value not in (None, "", [])), None)
