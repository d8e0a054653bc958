"""Which file a table may mean by a name that does not exist."""

from __future__ import annotations

import os
from collections.abc import Iterable
from difflib import get_close_matches
from functools import cached_property, lru_cache
from pathlib import Path

from diffusion_train.prepare.image.formats import READABLE, extension

_COMPARED = 500  # names; comparing more takes too long


class Names:
    """The names that exist, among which the meant one is looked for; they are indexed at the first question."""

    def __init__(self, names: Iterable[str]) -> None:
        self.names = names

    def missing(self, path: str, guess: bool = True) -> str:
        """Return the message for a path that does not exist, with the name that is meant.

        That is the name that differs by case or ending only, or, with `guess`, the closest one.
        """
        wanted = path.casefold()
        hint = self._by_plain.get(wanted) or self._by_plain.get(_without_ending(wanted))
        if not hint and guess and len(self._by_plain) <= 2 * _COMPARED:
            hint = next((self._by_plain[name] for name in get_close_matches(wanted, self._by_plain, 1, 0.85)), None)
        return f"{path[:200]} does not exist" + (f"; did you mean {hint[:200]}?" if hint else "")

    @cached_property
    def _by_plain(self) -> dict[str, str]:
        names = list(self.names)
        by_plain = {_without_ending(name).casefold(): name for name in names}
        return by_plain | {name.casefold(): name for name in names}


@lru_cache(maxsize=8)
def images_in(folder: Path) -> Names:
    """Return the names of the images in a folder, none if it cannot be read."""
    try:
        return Names(sorted(name for name in os.listdir(folder) if extension(name) in READABLE))
    except (OSError, ValueError):
        return Names(())


def _without_ending(path: str) -> str:
    return os.path.splitext(path)[0] if extension(path) in READABLE else path
