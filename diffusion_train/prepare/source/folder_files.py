"""The files of a folder and its subfolders: images, the files beside them, tables and others."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from diffusion_train.data.caption.table_rows import SUFFIXES
from diffusion_train.prepare.image.formats import READABLE, extension
from diffusion_train.prepare.source.base import LeftOut

TABLES = tuple(f"{name}{suffix}" for name in ("captions", "metadata") for suffix in SUFFIXES)
SIDE_FILES = ("txt", "caption", "json")
_OF_SYSTEMS = ("@eaDir", "__MACOSX")  # folders that network drives and archives of macOS add


class Files(NamedTuple):
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


def files_by_folder(root: Path, ignore: Path | None) -> Iterator[Files]:
    """Yield the files of `root` and of every folder below it, in order, without the folder `ignore`."""
    yield from _walk(root, "", {_identity(ignore)} if ignore and ignore.is_dir() else set())


def _identity(folder: Path) -> tuple[int, int]:
    facts = os.stat(folder)
    return facts.st_dev, facts.st_ino


def _walk(root: Path, path: str, seen: set[tuple[int, int]]) -> Iterator[Files]:
    """Yield every folder once, links too, so that circular links end."""
    try:
        if (identity := _identity(root / path)) in seen:
            return
        seen.add(identity)
        with os.scandir(root / path) as items:
            found = {item.name: item.is_dir() for item in items if not _is_hidden(item.name)}
    except OSError as error:
        yield Files(path, fault=LeftOut("unreadable", error.strerror or str(error)))
        return
    yield _sorted(path, [name for name, is_folder in sorted(found.items()) if not is_folder])
    for name in sorted(name for name, is_folder in found.items() if is_folder):
        yield from _walk(root, f"{path}/{name}" if path else name, seen)


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name in _OF_SYSTEMS


def _sorted(path: str, names: Sequence[str]) -> Files:
    images = [name for name in names if extension(name) in READABLE]
    possible = {beside for image in images for kind in SIDE_FILES for beside in _names_beside(image, kind)}
    side_files = possible & set(names)
    tables = [name for name in names if name.lower() in TABLES]
    known = {*images, *side_files, *tables}
    others = [name for name in names if name not in known]
    return Files(path, images, frozenset(side_files), tables, others)


def _names_beside(image: str, kind: str) -> list[str]:
    return [f"{name}.{written}" for written in (kind, kind.upper()) for name in (image, os.path.splitext(image)[0])]
