"""What the processes of a preparation do. They start in a moment, because nothing here needs torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from diffusion_train.data.index import open_index
from diffusion_train.data.source.base import Entry, LeftOut
from diffusion_train.data.source.sample import Made, Rules, make


def make_all(rules: Rules, entries: Sequence[tuple[str, Entry]]) -> list[tuple[str, Made | LeftOut]]:
    """(key, entry) -> (name, what became of it)"""
    return [(entry.name, make(key, entry, rules)) for key, entry in entries]


def keep_index(shard: Path) -> None:
    """Writes the index of one of our own shards beside it."""
    problems = open_index(shard).problems
    assert not problems, problems
