"""Expand patterns of shards to paths and URLs."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Sequence

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
    if not scheme and os.path.exists(pattern):
        return [pattern], []
    try:
        names = list(braceexpand(pattern, escape=False))
    except ValueError:
        return [], [Problem("missing-shard", redact_url(pattern), "braces do not match")]
    return (names, []) if scheme and scheme[1] != "file" else _local_files(pattern, names)


def _local_files(pattern: str, names: Iterable[str]) -> tuple[list[str], list[Problem]]:
    paths, problems = [], []
    for name in (name.removeprefix("file://") for name in names):
        wild = glob.has_magic(name) and not os.path.exists(name)
        found = sorted(glob.glob(name)) if wild else [name] * _may_be_there(name)
        paths += found
        if not found:
            problems.append(_absent(name, pattern, plain=name == pattern and not wild))
    return paths, problems


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
