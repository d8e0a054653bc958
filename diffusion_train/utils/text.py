"""Untrusted text on terminals and in logs."""

from __future__ import annotations

from itertools import accumulate


def printable(text: str, length: int = 80) -> str:
    """At most `length` characters of `text`, in which everything that does not print is escaped.

    That is: control characters, those that change the direction of writing or are not seen, line ends, surrogates.
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
