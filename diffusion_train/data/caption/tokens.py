"""How many tokens of a text encoder captions have."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Tokens:
    """Counts the tokens of captions for an encoder that takes `most` of them."""

    encoder: str
    most: int
    count: Callable[[Sequence[str]], Sequence[int]]
