"""Count the tokens of captions for a text encoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Tokens:
    """Counts tokens of captions with `count`. The text encoder `encoder` takes at most `most` tokens."""

    encoder: str
    most: int
    count: Callable[[Sequence[str]], Sequence[int]]
