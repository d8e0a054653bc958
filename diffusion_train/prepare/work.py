"""What the processes of a preparation do. They start in a moment, because nothing here needs torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from diffusion_train.data.shard.index_file import open_index
from diffusion_train.prepare.shard_sample import Made, Rules, make
from diffusion_train.prepare.source.base import Entry, LeftOut


class Outcome(NamedTuple):
    """What became of an entry, and its state from before it was read."""

    name: str
    state: bytes
    result: Made | LeftOut


def make_all(rules: Rules, entries: Sequence[tuple[str, Entry]]) -> list[Outcome]:
    """Of (key, entry)."""
    return [Outcome(entry.name, entry.state(), make(key, entry, rules)) for key, entry in entries]


def keep_index(shard: Path) -> None:
    """Writes the index of one of our own shards beside it."""
    problems = open_index(shard).problems
    assert not problems, problems
