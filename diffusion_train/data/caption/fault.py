"""Faults of a sample's caption, and decoding its bytes."""

from __future__ import annotations

from typing import NamedTuple

MAX_BYTES = 1 << 20  # of a member that holds captions


class CaptionError(ValueError):
    """A sample without a caption that can be trained on; `rule` names the kind."""

    rule = "malformed-caption"


class MissingCaption(CaptionError):
    """A sample without a caption."""

    rule = "missing-caption"


class BlankCaption(CaptionError):
    """A caption of white space only."""

    rule = "blank-caption"


class Fault(NamedTuple):
    """A fault of a caption: the name of the rule of `check` and a description."""

    rule: str
    detail: str


def decode(data: bytes) -> str:
    """Decode UTF-8 without byte order mark; invalid bytes become U+FFFD.

    Raises CaptionError for more than MAX_BYTES.
    """
    if len(data) > MAX_BYTES:
        raise CaptionError(f"a caption must have at most {MAX_BYTES} bytes, got {len(data)}")
    return data.decode("utf-8", "replace").removeprefix("\ufeff")


def is_utf8(data: bytes) -> bool:
    """Whether bytes are valid UTF-8."""
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
