"""Expand patterns of shards to paths and URLs."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Iterator, Sequence

from braceexpand import braceexpand

from diffusion_train.data.shard.problem import Problem
from diffusion_train.data.storage.local import local_error
from diffusion_train.data.storage.urls import SCHEMES, is_local
from diffusion_train.utils.redact import redact_url

Patterns = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


def find_shards(shards: Patterns) -> tuple[list[str], list[Problem]]:
    """Return the paths and URLs of patterns with braces (for local files also wildcards), in order, and problems."""
    patterns = [shards] if isinstance(shards, str | os.PathLike) else list(shards)
    urls: list[str] = []
    problems = [] if patterns else [Problem("missing-shard", "[]", "no shards given")]
    for pattern in patterns:
        found, faults = _expand(os.fspath(pattern))
        urls += found
        problems += faults
    seen: set[str] = set()
    for url in urls:
        real = os.path.realpath(url) if is_local(url) else url
        if real in seen:
            problems.append(Problem("duplicate-shard", redact_url(url), "given twice"))
        seen.add(real)
    return urls, problems


def _expand(pattern: str) -> tuple[list[str], list[Problem]]:
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://|(pipe):", pattern)
    if scheme and (scheme[1] or scheme[2]) not in SCHEMES:
        detail = f"{scheme[0]} cannot be read; shards must be local files or {', '.join(SCHEMES)} addresses"
        return [], [Problem("unreadable-shard", redact_url(pattern), detail)]
    try:
        literal, rest = ("", pattern) if scheme else _literal(pattern)
        names = [literal + name for name in braceexpand(rest, escape=False)] if rest else [literal]
    except ValueError:
        return [], [Problem("missing-shard", redact_url(pattern), "braces do not match")]
    return (names, []) if scheme and scheme[1] != "file" else _local_files(pattern, names)


def _local_files(pattern: str, names: Iterable[str]) -> tuple[list[str], list[Problem]]:
    paths, problems = [], []
    for name in (name.removeprefix("file://") for name in names):
        wild = glob.has_magic(name) and not os.path.exists(name)
        found = sorted(_matching(name)) if wild else [name] * _may_be_there(name)
        paths += found
        if not found:
            problems.append(_absent(name, pattern, plain=name == pattern and not wild))
    return paths, problems


def _literal(pattern: str) -> tuple[str, str]:
    """Split off the folders at the start that exist by this very name, even if it has braces or wildcards."""
    parts = re.split("(?<=/)(?=[^/])", pattern)
    count = next((n for n in range(len(parts), 0, -1) if os.path.exists("".join(parts[:n]))), 0)
    return "".join(parts[:count]), "".join(parts[count:])


def _matching(pattern: str) -> Iterator[str]:
    """Yield the paths that match wildcards;
    a folder or file that exists by the name in the pattern is meant literally.
    """
    literal, rest = _literal(pattern)
    first, slash, further = rest.partition("/")
    if not rest:
        yield literal
        return
    for found in glob.glob(glob.escape(literal) + first + slash):
        yield from _matching(found + further) if further else [found]


def _may_be_there(path: str) -> bool:
    try:
        os.lstat(path)
    except PermissionError:
        return True  # reported when it is read
    except (OSError, ValueError):
        return False
    return True


def _absent(name: str, pattern: str, plain: bool) -> Problem:
    folder = os.path.dirname(os.path.abspath(name))
    try:
        os.scandir(folder).close()
    except PermissionError as error:
        return Problem("unreadable-shard", name, str(local_error(folder, error)))
    except (OSError, ValueError):
        pass
    detail = "no such file" if plain else f"pattern {pattern} matched 0 files in {folder}"
    return Problem("missing-shard", name, detail)
