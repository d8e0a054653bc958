"""Faults of a sample's caption, and decoding its bytes."""

from __future__ import annotations

import json
import math
from typing import NamedTuple

from diffusion_train.utils.text import clean_text, decode_text

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
    """Decode by byte order mark, by default UTF-8; invalid bytes become U+FFFD.

    Raises CaptionError for more than MAX_BYTES.
    """
    if len(data) > MAX_BYTES:
        raise CaptionError(f"a caption must have at most {MAX_BYTES} bytes, got {len(data)}")
    return clean_text(decode_text(data))


def caption_text(value: object) -> str | None:
    """Return the caption that a value of a table or of JSON stands for, of a list the first that is not blank.

    A whole number, such as a class label, is its digits; None and NaN are no caption. Raises CaptionError for the rest.
    """
    if isinstance(value, list):
        return next((text for item in value if (text := caption_text(item)) and text.strip()), None)
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, str | int) and not isinstance(value, bool):
        return str(value)
    shown = json.dumps(value) if isinstance(value, bool | float) else f"a value of type {type(value).__name__}"
    raise CaptionError(f"a caption must be text or a whole number, got {shown}")
