"""The work of the processes of a preparation. They start quickly, because nothing here imports torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from diffusion_train.data.shard.index_file import open_index
from diffusion_train.prepare.shard_sample import Made, Rules, make
from diffusion_train.prepare.source.base import Entry, LeftOut


class Outcome(NamedTuple):
    """The result of an entry, and its state before it was read."""

    name: str
    state: bytes
    result: Made | LeftOut


def make_all(rules: Rules, entries: Sequence[tuple[str, Entry]]) -> list[Outcome]:
    """Make the samples of entries, given as (key, entry)."""
    return [Outcome(entry.name, entry.state(), make(key, entry, rules)) for key, entry in entries]


def keep_index(shard: Path) -> None:
    """Write the index of a shard that the preparation has written, beside it."""
    problems = open_index(shard).problems
    assert not problems, problems
