"""Makes untrusted text safe for terminals and logs."""

from __future__ import annotations

from itertools import accumulate


def printable(text: str, length: int = 80) -> str:
    """Return at most `length` characters of `text`, with all unprintable characters escaped.

    These are control characters, line ends, surrogates, invisible characters and those that change the text direction.
    """
    pieces = [
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in text[: length + 1]
    ]
    whole = "".join(pieces)
    if len(whole) <= length:
        return whole
    ends = accumulate(map(len, pieces))
    return "".join(piece for piece, end in zip(pieces, ends, strict=True) if end < length) + "…"
