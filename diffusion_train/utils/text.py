"""Text of strangers on terminals and in logs."""

from __future__ import annotations


def shown(text: str, length: int = 80) -> str:
    """At most `length` characters of `text`, in which everything that does not print is escaped.

    That is: control characters, those that change the direction of writing or are not seen, line ends, surrogates.
    """
    out, used = [], 0
    for character in text[: length + 1]:
        piece = character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        out.append(piece)
        used += len(piece)
    if used <= length and len(text) <= length:
        return "".join(out)
    while out and used > length - 1:
        used -= len(out.pop())
    return "".join(out) + "…"
