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

from diffusion_train.data.caption.table_rows import MAX_METADATA, SUFFIXES, column_names, table_rows
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
from diffusion_train.prepare.source.misnamed import missing
from diffusion_train.prepare.source.table import USUAL, USUAL_COLUMNS, Columns
from diffusion_train.rights.image_rights import rights_of
from diffusion_train.rights.license import both
from diffusion_train.utils.text import argument, decode_text

PLACES = ("txt", "caption", "table", "json", "name", "prompt")
TABLES = tuple(f"{name}{suffix}" for name in ("captions", "metadata") for suffix in SUFFIXES)
_SIDE_FILES = ("txt", "caption", "json")
_OF_SYSTEMS = ("@eaDir", "__MACOSX")  # folders that network drives and archives of macOS add
_DRAWN = {"run", "weights", "sampler", "guidance"}  # texts in every PNG of sample.py; in its samples also their prompt
Facts = dict[str, Any]


@dataclass(frozen=True)
class Folder:
    """Images in the order of their folders and names, without hidden ones.

    `captions` lists where captions are looked for, in order of preference: txt, caption and json are files beside the
    image (img.txt or img.jpg.txt), table is captions.csv or metadata.csv (or .tsv, .jsonl) of any folder, with paths relative
    to it, name is the file's own name, and prompt is the prompt in a PNG of sample.py. Metadata comes from json and
    table, whichever gives the caption. The folder `ignore` is skipped. Raises ValueError for wrong settings.
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
                f"path={self.path}: {'is a file; for tables use source=csv or parquet' if is_file else 'no such folder'}"
            )
        if wrong := [kind for kind in self.captions if kind not in PLACES]:
            raise ValueError(f"source.captions: must be among {', '.join(PLACES)}, got {', '.join(wrong)}")
        _ = self._table  # read now, so that mistakes in tables are reported before images are read

    def total(self) -> int:
        return sum(1 for _ in self.entries())

    def entries(self, skip: int = 0) -> Iterator[Entry]:
        """Yield images and other files folder by folder, then rows of tables without an image, then faulty rows."""
        images: set[str] = set()
        for folder in self._folders:
            if folder.fault:
                yield Entry(folder.path, folder.fault)
            for name in folder.images:
                images.add(_same_name(folder.below(name)))
                yield self._image(folder, name)
            yield from (_other(folder, name) for name in folder.others)
        for path, row in self._table.rows.items():
            if path not in images:
                yield Entry(row.where, LeftOut("no-image", missing(path, images)))
        yield from self._table.faults

    def repeats(self) -> str:
        """Return commands that repeat the images of folders called 10_word as kohya's scripts do; "" if all are alike."""
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

    def _image(self, folder: _Files, name: str) -> Entry:
        path = folder.below(name)
        found = {kind: folder.beside(name, kind) for kind in _SIDE_FILES if kind in (*self.captions, "json")}
        root = Path(self.path)
        beside = {kind: root / file for kind, file in found.items() if file}
        row = self._table.rows.get(_same_name(path), _NO_ROW)
        read = partial(read_image, root, path, beside, row, tuple(self.captions), self.columns.caption, self.encoding)
        files = [root / path, *beside.values()]
        return Entry(path, read, os.path.splitext(path)[0], files, row.table)

    @cached_property
    def _folders(self) -> list[_Files]:
        ignored = {_identity(Path(self.ignore))} if self.ignore and Path(self.ignore).is_dir() else set()
        return list(_walk(Path(self.path), "", ignored))

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
    image = read_file(root / path, most_bytes(path))
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


class _Files(NamedTuple):
    """The sorted names in one folder; `path` is relative to the root, "" for the root itself."""

    path: str
    images: Sequence[str] = ()
    side_files: frozenset[str] = frozenset()
    tables: Sequence[str] = ()
    others: Sequence[str] = ()
    fault: LeftOut | None = None

    def below(self, name: str) -> str:
        return f"{self.path}/{name}" if self.path else name

    def beside(self, image: str, kind: str) -> str | None:
        """Return the path of img.<kind> or img.jpg.<kind>, relative to the root, or None."""
        found = (name for name in _names_beside(image, kind) if name in self.side_files)
        return next((self.below(name) for name in found), None)


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


def _identity(folder: Path) -> tuple[int, int]:
    facts = os.stat(folder)
    return facts.st_dev, facts.st_ino


def _walk(root: Path, path: str, seen: set[tuple[int, int]]) -> Iterator[_Files]:
    """Yield every folder once, links too, so that circular links end."""
    try:
        if (identity := _identity(root / path)) in seen:
            return
        seen.add(identity)
        with os.scandir(root / path) as items:
            found = {item.name: item.is_dir() for item in items if not _is_hidden(item.name)}
    except OSError as error:
        yield _Files(path, fault=LeftOut("unreadable", error.strerror or str(error)))
        return
    yield _sorted(path, [name for name, is_folder in sorted(found.items()) if not is_folder])
    for name in sorted(name for name, is_folder in found.items() if is_folder):
        yield from _walk(root, f"{path}/{name}" if path else name, seen)


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name in _OF_SYSTEMS


def _sorted(path: str, names: Sequence[str]) -> _Files:
    images = [name for name in names if extension(name) in READABLE]
    possible = {beside for image in images for kind in _SIDE_FILES for beside in _names_beside(image, kind)}
    side_files = possible & set(names)
    tables = [name for name in names if name.lower() in TABLES]
    known = {*images, *side_files, *tables}
    others = [name for name in names if name not in known]
    return _Files(path, images, frozenset(side_files), tables, others)


def _other(folder: _Files, name: str) -> Entry:
    kind = extension(name)
    if kind in OTHER_IMAGES:
        reason = LeftOut("unknown-format", f"{kind}; supported are {', '.join(READABLE)}")
    else:
        reason = LeftOut("not-a-sample", "no image of this name" if kind in _SIDE_FILES else "")
    return Entry(folder.below(name), reason)


def _names_beside(image: str, kind: str) -> list[str]:
    return [f"{name}.{written}" for written in (kind, kind.upper()) for name in (image, os.path.splitext(image)[0])]


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
