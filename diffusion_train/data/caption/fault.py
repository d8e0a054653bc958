"""What can be wrong with a sample's caption, and its bytes as text."""

from __future__ import annotations

from typing import NamedTuple

MAX_BYTES = 1 << 20  # of a member that holds captions


class CaptionError(ValueError):
    """A sample without a caption that can be trained on; `rule` names the kind."""

    rule = "malformed-caption"


class MissingCaption(CaptionError):
    rule = "missing-caption"


class BlankCaption(CaptionError):
    rule = "blank-caption"


class Fault(NamedTuple):
    rule: str
    detail: str


def decode(data: bytes) -> str:
    """UTF-8 without byte order mark; what is not UTF-8 becomes U+FFFD. Raises CaptionError for more than MAX_BYTES."""
    if len(data) > MAX_BYTES:
        raise CaptionError(f"{len(data)} bytes, more than the {MAX_BYTES} that are read for a caption")
    return data.decode("utf-8", "replace").removeprefix("\ufeff")


def is_utf8(data: bytes) -> bool:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
