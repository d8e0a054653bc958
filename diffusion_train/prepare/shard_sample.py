"""Turn a record of a source into a sample of a shard:
check it, measure it, and convert or shrink its image if needed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, Literal, NamedTuple, get_args

from PIL import Image

from diffusion_train.data.image.decode import decode_image
from diffusion_train.data.image.ground import is_blank
from diffusion_train.data.image.header import FORMATS, Header, ImageError, TooManyPixels
from diffusion_train.data.image.profile import profile_use
from diffusion_train.data.image.read_header import image_header
from diffusion_train.metric.near_duplicates import signature
from diffusion_train.prepare.image.stored_image import source_header, stored_image
from diffusion_train.prepare.image.svg_safety import OutsideReference
from diffusion_train.prepare.source.base import Entry, LeftOut, Record, refuse
from diffusion_train.rights.image_rights import NO_RIGHTS, Rights, with_rights
from diffusion_train.rights.license import UNKNOWN, decide
from diffusion_train.rights.validity import expiry_mistake, rights_faults
from diffusion_train.utils.text import clean_text, is_damaged

MissingCaption = Literal["drop", "empty"]
InvalidRights = Literal["drop", "keep"]
_THUMBNAIL = 64  # pixels a side from which a signature is computed, if the image has as many
_MAX_SVG_SIDE = 8192


@dataclass(frozen=True)
class Rules:
    """Which samples are used, and how. `rights` are the defaults for samples that name none. Sizes are in pixels.

    Raises ValueError for wrong settings.
    """

    allowed_licenses: Sequence[str] | None = None
    missing_caption: MissingCaption = "drop"
    min_side: int = 1
    max_aspect: float | None = None
    max_side: int | None = None
    svg_side: int = 1024
    invalid_rights: InvalidRights = "drop"
    rights: Rights = NO_RIGHTS

    def __post_init__(self) -> None:
        possible, aspect, side, least = get_args(MissingCaption), self.max_aspect, self.max_side, self.min_side
        mistakes = {
            f"missing_caption={self.missing_caption}: must be one of {', '.join(possible)}": self.missing_caption
            not in possible,
            f"invalid_rights={self.invalid_rights}: must be one of {', '.join(get_args(InvalidRights))}": (
                self.invalid_rights not in get_args(InvalidRights)
            ),
            expiry_mistake(self.rights.license_expires): expiry_mistake(self.rights.license_expires),
            f"min_side={least}: must be at least 1 pixel": least < 1,
            f"max_aspect={aspect}: must be at least 1 (longer / shorter side)": aspect is not None and aspect < 1,
            f"max_side={side}: must be at least 16 pixels, and not less than prepare.min_side={least}": side is not None
            and side < max(least, 16),
            f"svg_side={self.svg_side}: must be at least 16 pixels, and at most {_MAX_SVG_SIDE}": not 16
            <= self.svg_side
            <= _MAX_SVG_SIDE,
        }
        refuse("prepare", mistakes)


class Measures(NamedTuple):
    """The facts about a sample for the dataset card; width and height are those of the stored image, upright.

    `converted` is the format that the source had, "" if a shard may store it. `is_blank` says that the image is
    blank on white.
    """

    key: str
    caption: str
    format: str
    width: int
    height: int
    is_animated: bool
    is_transparent: bool
    is_rotated: bool
    profile_use: str
    was_shrunk: bool
    converted: str
    is_blank: bool
    license: str
    has_author: bool
    has_source: bool
    license_expires: str
    signature: str


class Made(NamedTuple):
    """A sample as it is written to a shard, and its measures."""

    sample: dict[str, Any]
    measures: Measures


def make(key: str, entry: Entry, rules: Rules) -> Made | LeftOut:
    """Read an entry and return its sample, or the reason why it is left out."""
    if isinstance(entry.read, LeftOut):
        return entry.read
    try:
        return _made(key, entry.read(), rules)
    except LeftOut as reason:
        return reason


def _made(key: str, record: Record, rules: Rules) -> Made:
    facts = with_rights(record.facts, rules.rights)
    license = facts.get("license", UNKNOWN)
    if rules.allowed_licenses is not None and not decide(license, rules.allowed_licenses):
        raise LeftOut("licence", license[:200])
    if rules.invalid_rights == "drop" and (faults := rights_faults(facts, date.today())):
        raise LeftOut(next(iter(faults)), "; ".join(faults.values()))
    if is_damaged(record.caption or ""):
        raise LeftOut("not-utf8", clean_text(record.caption or "")[:200])
    caption = clean_text(record.caption or "").strip()
    if not caption and rules.missing_caption == "drop":
        raise LeftOut("no-caption")
    original, data, pixels = _image(record.image, rules)
    header = image_header(data)
    was_shrunk = max(header.width, header.height) < max(original.width, original.height)
    if data is not record.image:
        facts |= _provenance(record.image, original, was_shrunk)
    kind = "jpg" if header.format == "JPEG" else header.format.lower()
    measures = Measures(
        key=key,
        caption=caption,
        format=kind,
        width=header.width,
        height=header.height,
        is_animated=original.animated,
        is_transparent=header.alpha,
        is_rotated=header.rotated,
        profile_use=profile_use(original),
        was_shrunk=was_shrunk,
        converted="" if original.format in FORMATS else original.format.lower(),
        is_blank=header.alpha and is_blank(pixels),
        license=license,
        has_author="author" in facts,
        has_source="source" in facts,
        license_expires=facts.get("license_expires", ""),
        signature=signature(pixels).hex(),
    )
    return Made({"__key__": key, kind: data, "txt": caption, "json": facts}, measures)


def _image(source: bytes, rules: Rules) -> tuple[Header, bytes, Image.Image]:
    """Return the header of an image of a source, what a shard stores of it, and that decoded on white.

    Raises LeftOut.
    """
    try:
        header = source_header(source, min(rules.svg_side, rules.max_side or rules.svg_side))
        _refuse_size(header, rules)
        data = stored_image(source, header, rules.max_side)
        return header, data, decode_image(data, at_least=(_THUMBNAIL, _THUMBNAIL))
    except TooManyPixels as error:
        raise LeftOut("too-many-pixels", str(error)[:200]) from None
    except OutsideReference as error:
        raise LeftOut("outside-reference", str(error)[:200]) from None
    except ImageError as error:
        raise LeftOut("undecodable", str(error)[:200]) from None


def _provenance(source: bytes, header: Header, was_shrunk: bool) -> dict[str, Any]:
    """Return what the metadata of a sample say about an image that is not stored as it was."""
    facts: dict[str, Any] = {
        "original_format": header.format.lower(),
        "original_sha256": hashlib.sha256(source).hexdigest(),
    }
    return facts | {"original_size": [header.width, header.height]} if was_shrunk else facts


def _refuse_size(header: Header, rules: Rules) -> None:
    """Raises LeftOut."""
    short, long = sorted((header.width, header.height))
    size = f"{header.width} x {header.height} pixels"
    if short < rules.min_side:
        raise LeftOut("too-small", size)
    if rules.max_aspect and long > rules.max_aspect * short:
        raise LeftOut("too-narrow", size)
