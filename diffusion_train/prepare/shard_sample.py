"""Turn a record of a source into a sample of a shard: check it, measure it, and shrink its image if it is too large."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

from PIL import Image

from diffusion_train.data.image.decode import WHITE, decode_image
from diffusion_train.data.image.header import Header, ImageError, image_header
from diffusion_train.data.image.profile import profile_use
from diffusion_train.license import UNKNOWN, decide, normalise
from diffusion_train.metric.near_duplicates import signature
from diffusion_train.prepare.rights import NO_RIGHTS, Rights, rights_of
from diffusion_train.prepare.source.base import Entry, LeftOut, Record, refuse
from diffusion_train.utils.text import clean_text, is_damaged

MissingCaption = Literal["drop", "empty"]
_THUMBNAIL = 64  # pixels a side from which a signature is computed, if the image has as many


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
    rights: Rights = NO_RIGHTS

    def __post_init__(self) -> None:
        possible, aspect, side, least = get_args(MissingCaption), self.max_aspect, self.max_side, self.min_side
        mistakes = {
            f"missing_caption={self.missing_caption}: must be one of {', '.join(possible)}": self.missing_caption
            not in possible,
            f"min_side={least}: must be at least 1 pixel": least < 1,
            f"max_aspect={aspect}: must be at least 1 (longer / shorter side)": aspect is not None and aspect < 1,
            f"max_side={side}: must be at least 16 pixels, and not less than prepare.min_side={least}": side is not None
            and side < max(least, 16),
        }
        refuse("prepare", mistakes)


class Measures(NamedTuple):
    """The facts about a sample for the dataset card; width and height are those of the stored image, upright."""

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
    license: str
    has_author: bool
    has_source: bool
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
    if is_damaged(record.caption or ""):
        raise LeftOut("not-utf8", clean_text(record.caption or "")[:200])
    caption = clean_text(record.caption or "").strip()
    if not caption and rules.missing_caption == "drop":
        raise LeftOut("no-caption")
    try:
        data, header = record.image, image_header(record.image)
        original = header
        _refuse_size(header, rules)
        looks = signature(decode_image(data, at_least=(_THUMBNAIL, _THUMBNAIL)))
        if rules.max_side and max(header.width, header.height) > rules.max_side:
            facts["original_size"] = [header.width, header.height]
            data = shrink(data, header, rules.max_side)
            header = image_header(data)
    except ImageError as error:
        raise LeftOut("undecodable", str(error)[:200]) from None
    kind = "jpg" if header.format == "JPEG" else header.format.lower()
    measures = Measures(
        key=key,
        caption=caption,
        format=kind,
        width=header.width,
        height=header.height,
        is_animated=header.animated,
        is_transparent=header.alpha,
        is_rotated=header.rotated,
        profile_use=profile_use(original),
        was_shrunk=data is not record.image,
        license=license,
        has_author="author" in facts,
        has_source="source" in facts,
        signature=looks.hex(),
    )
    return Made({"__key__": key, kind: data, "txt": caption, "json": facts}, measures)


def shrink(data: bytes, header: Header, max_side: int) -> bytes:
    """Return the first frame, upright, with a longer side of `max_side` pixels. Raises ImageError.

    JPEG and opaque WebP become JPEG; everything else becomes PNG. The pixels are sRGB, so no colour profile stays.
    """
    pixels = decode_image(data, background=None if header.alpha else WHITE)
    scale = max_side / max(pixels.size)
    small = pixels.resize(
        (max(1, round(pixels.width * scale)), max(1, round(pixels.height * scale))), Image.Resampling.LANCZOS
    )
    out = io.BytesIO()
    if header.format in ("JPEG", "WEBP") and small.mode == "RGB":
        small.save(out, "JPEG", quality=95, subsampling=0)
    else:
        small.save(out, "PNG")
    return out.getvalue()


def _refuse_size(header: Header, rules: Rules) -> None:
    """Raises LeftOut."""
    short, long = sorted((header.width, header.height))
    size = f"{header.width} x {header.height} pixels"
    if short < rules.min_side:
        raise LeftOut("too-small", size)
    if rules.max_aspect and long > rules.max_aspect * short:
        raise LeftOut("too-narrow", size)


def with_rights(facts: dict[str, Any], default: Rights = NO_RIGHTS) -> dict[str, Any]:
    """Return metadata as plain JSON with the SPDX name in `license`, the author in `author` and the source in `source`.

    A field is missing if nothing is known. An earlier value that differs is kept in `license_text` and so on.
    """
    plain: dict[str, Any] = _plain(facts)
    found = rights_of(plain)
    license = found.license if found.license != UNKNOWN else normalise(default.license)
    author, source = found.author or default.author, found.source or default.source
    said = {"license": "" if license == UNKNOWN else license, "author": author, "source": source}
    for name, value in said.items():
        before = plain.pop(name, None)
        if before not in (None, "", value):
            plain[f"{name}_text"] = before
        if value:
            plain[name] = value
    return plain


def _plain(value: Any) -> Any:
    """Convert to portable JSON: dates and the like become text, NaN and infinity null, and bytes are dropped."""
    if isinstance(value, dict):
        return {clean_text(str(name)): _plain(inner) for name, inner in value.items() if not isinstance(inner, bytes)}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return clean_text(str(value))
