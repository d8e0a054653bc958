"""Decode untrusted text, and make it safe for terminals, logs and printed commands."""

from __future__ import annotations

import codecs
import re
import shlex
from collections.abc import Sequence
from itertools import accumulate

_MARKS = {  # of a longer one first: that of UTF-32 begins with that of UTF-16
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
ESCAPE = "diffusion_train.escape"  # an error handler: a byte that cannot be decoded becomes a lone surrogate
NOT_SET = "(not set)"  # in messages: a setting without a value


def encoding_of(start: bytes, otherwise: str | None = None) -> str:
    """Return the encoding that the byte order mark at the start of a text names, else `otherwise` or UTF-8."""
    return next((name for mark, name in _MARKS.items() if start.startswith(mark)), otherwise or "utf-8")


def decode_text(data: bytes, encoding: str | None = None) -> str:
    """Decode by byte order mark, else `encoding` or UTF-8; `is_damaged` is true of the text if bytes are left over."""
    return data.decode(encoding_of(data[:4], encoding), ESCAPE)


def is_damaged(text: str) -> bool:
    """Whether a text holds bytes that could not be decoded."""
    return re.search("[\udc00-\udcff]", text) is not None


def clean_text(text: str) -> str:
    """Return text that can be encoded as UTF-8; bytes that could not be decoded become U+FFFD."""
    return re.sub("[\ud800-\udfff]", "\ufffd", text)


def _escape(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    return "".join(chr(0xDC00 + byte) for byte in error.object[error.start : error.end]), error.end


codecs.register_error(ESCAPE, _escape)


def quoted(value: str) -> str:
    """Quote any text for Hydra's override grammar."""
    return "'" + value.replace("'", "\\'") + "'"


def for_shell(argument: str) -> str:
    """Quote an argument as one word of a shell."""
    return shlex.quote(argument) if re.search(r'[$`"\\!]', argument) else f'"{argument}"'


def argument(key: str, value: object) -> str:
    """Return key=value as one word of a shell that Hydra's override grammar reads as this very text."""
    plain = re.fullmatch(r"[\w./@%+-]+", str(value), re.ASCII)
    return f"{key}={value}" if plain else for_shell(f"{key}={quoted(str(value))}")


def indented(lines: Sequence[str], most: int = 20) -> str:
    """Return at most `most` lines of a list, each indented, and how many are left out."""
    left_out = [f"and {len(lines) - most} more"] if len(lines) > most else []
    return "".join(f"\n  {line}" for line in [*lines[:most], *left_out])


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
