"""Which file a table may mean by a name that does not exist."""

from __future__ import annotations

import os
from collections.abc import Collection
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path

from diffusion_train.prepare.image.formats import READABLE, extension

_COMPARED = 2000  # names; comparing more takes too long


def missing(path: str, others: Collection[str]) -> str:
    """Return the message for a path that does not exist, with the one of `others` that has the same or a similar name."""
    hint = _similar(path, others)
    return f"{path[:200]} does not exist" + (f"; did you mean {hint[:200]}?" if hint else "")


@lru_cache(maxsize=8)
def images_in(folder: Path) -> tuple[str, ...]:
    """Return the names of the images in a folder, () if it cannot be read."""
    try:
        return tuple(sorted(name for name in os.listdir(folder) if extension(name) in READABLE))
    except (OSError, ValueError):
        return ()


def _similar(path: str, others: Collection[str]) -> str | None:
    """Return the name that differs by case or ending only, or else the closest one."""
    wanted = path.casefold()
    by_plain = {_without_ending(other).casefold(): other for other in others}
    by_plain |= {other.casefold(): other for other in others}
    same = by_plain.get(wanted) or by_plain.get(_without_ending(wanted))
    if same or len(others) > _COMPARED:
        return same
    return next((by_plain[name] for name in get_close_matches(wanted, by_plain, 1, 0.85)), None)


def _without_ending(path: str) -> str:
    return os.path.splitext(path)[0] if extension(path) in READABLE else path
