"""From what a source read to what a shard holds: checked, measured, perhaps shrunk."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

from PIL import Image, ImageOps

from diffusion_train.data.decode import ImageError, decode_image
from diffusion_train.data.near_duplicates import signature
from diffusion_train.data.source.base import Entry, LeftOut, Record
from diffusion_train.data.source.rights import NO_RIGHTS, UNKNOWN, Rights, decide, normalise, rights_of

MissingCaption = Literal["drop", "empty"]
_THUMBNAIL = 64  # pixels a side that a signature is made of, where there are so many
_EXTENSIONS = {"JPEG": "jpg", "MPO": "jpg"}  # MPO: what phones write, a JPEG with further pictures after it
_ORIENTATION = 0x0112


@dataclass(frozen=True)
class Rules:
    """Which samples are taken over and how. `rights` stand for every sample that says nothing of its own."""

    allowed_licenses: Sequence[str] | None = None
    missing_caption: MissingCaption = "drop"
    min_side: int = 1
    max_aspect: float | None = None
    max_side: int | None = None
    rights: Rights = NO_RIGHTS

    def __post_init__(self) -> None:
        wrong = []
        if self.missing_caption not in get_args(MissingCaption):
            wrong.append(
                f"prepare.missing_caption={self.missing_caption}: one of {', '.join(get_args(MissingCaption))}"
            )
        if self.min_side < 1:
            wrong.append(f"prepare.min_side={self.min_side}: at least 1 pixel")
        if self.max_aspect is not None and self.max_aspect < 1:
            wrong.append(f"prepare.max_aspect={self.max_aspect}: longer side / shorter side, so at least 1")
        if self.max_side is not None and self.max_side < max(self.min_side, 16):
            wrong.append(f"prepare.max_side={self.max_side}: at least 16 pixels and prepare.min_side={self.min_side}")
        if wrong:
            raise ValueError("\n".join(wrong))


class Measures(NamedTuple):
    """What the card tells of a sample, of its image as it is stored and upright."""

    key: str
    caption: str
    format: str
    width: int
    height: int
    is_animated: bool
    is_transparent: bool
    is_rotated: bool
    was_shrunk: bool
    license: str
    has_author: bool
    has_source: bool
    signature: str


class Made(NamedTuple):
    sample: dict[str, Any]
    measures: Measures


def make(key: str, entry: Entry, rules: Rules) -> Made | LeftOut:
    """The sample of an entry under its key."""
    if isinstance(entry.read, LeftOut):
        return entry.read
    try:
        return _made(key, entry.read(), rules)
    except LeftOut as reason:
        return reason


def _made(key: str, record: Record, rules: Rules) -> Made:
    facts = with_rights(record.facts, rules.rights)
    if rules.allowed_licenses is not None and not decide(facts["license"], rules.allowed_licenses):
        raise LeftOut("licence", facts["license"][:200])
    caption = clean_text(record.caption or "").strip()
    if not caption and rules.missing_caption == "drop":
        raise LeftOut("no-caption")
    try:
        thumbnail = decode_image(record.image, at_least=_THUMBNAIL)
        image = _Stored.of(record.image)
        image.refuse(rules)
        if rules.max_side and max(image.size) > rules.max_side:
            facts["original_size"] = list(image.size)
            image = image.shrunk(rules.max_side)
    except ImageError as error:
        raise LeftOut("undecodable", str(error)[:200]) from None
    sample = {
        "__key__": key,
        _EXTENSIONS.get(image.format, image.format.lower()): image.data,
        "txt": caption,
        "json": facts,
    }
    measures = Measures(
        key=key,
        caption=caption,
        format=_EXTENSIONS.get(image.format, image.format.lower()),
        width=image.size[0],
        height=image.size[1],
        is_animated=image.is_animated,
        is_transparent=image.is_transparent,
        is_rotated=image.is_rotated,
        was_shrunk=image.data is not record.image,
        license=facts["license"],
        has_author=bool(facts["author"]),
        has_source=bool(facts["source"]),
        signature=signature(thumbnail).hex(),
    )
    return Made(sample, measures)


def with_rights(facts: dict[str, Any], default: Rights = NO_RIGHTS) -> dict[str, Any]:
    """Plain JSON with the SPDX name under `license`, the author under `author` and the source under `source`.

    What stood there otherwise is kept as `license_text` and so on.
    """
    plain: dict[str, Any] = _plain(facts)
    found = rights_of(plain)
    said = {
        "license": found.license if found.license != UNKNOWN else normalise(default.license),
        "author": found.author or default.author,
        "source": found.source or default.source,
    }
    before = {f"{name}_text": plain[name] for name in said if plain.get(name) not in (None, "", said[name])}
    return plain | before | said


@dataclass(frozen=True)
class _Stored:
    """An image as it goes into a shard."""

    data: bytes
    format: str
    size: tuple[int, int]
    is_animated: bool
    is_transparent: bool
    is_rotated: bool

    @classmethod
    def of(cls, data: bytes) -> _Stored:
        """Of an image that could be decoded."""
        with Image.open(io.BytesIO(data)) as image:
            orientation = image.getexif().get(_ORIENTATION, 1)
            size = image.size[::-1] if orientation in (5, 6, 7, 8) else image.size
            return cls(
                data=data,
                format=str(image.format),
                size=size,
                is_animated=bool(getattr(image, "is_animated", False)) and image.format != "MPO",
                is_transparent=image.has_transparency_data,
                is_rotated=orientation in range(2, 9),
            )

    def refuse(self, rules: Rules) -> None:
        """Raises LeftOut for a size that is not wanted."""
        short, long = sorted(self.size)
        if short < rules.min_side:
            raise LeftOut("too-small", f"{self.size[0]} x {self.size[1]} pixels")
        if rules.max_aspect and long > rules.max_aspect * short:
            raise LeftOut("too-narrow", f"{self.size[0]} x {self.size[1]} pixels")

    def shrunk(self, max_side: int) -> _Stored:
        """Upright, the first frame; JPEG stays JPEG, opaque WebP becomes it, all else is PNG."""
        with Image.open(io.BytesIO(self.data)) as image:
            profile = image.info.get("icc_profile")
            pixels = ImageOps.exif_transpose(image).convert("RGBA") if self.is_transparent else decode_image(self.data)
        scale = max_side / max(self.size)
        size = tuple(max(1, round(side * scale)) for side in self.size)
        small = pixels.resize((size[0], size[1]), Image.Resampling.LANCZOS)
        out = io.BytesIO()
        if self.format in ("JPEG", "MPO", "WEBP") and not self.is_transparent:
            small.save(out, "JPEG", quality=95, subsampling=0, icc_profile=profile)
        else:
            small.save(out, "PNG", icc_profile=profile)
        return _Stored.of(out.getvalue())


def clean_text(text: str) -> str:
    """What UTF-8 can hold; bytes that were no UTF-8 become U+FFFD."""
    return re.sub("[\ud800-\udfff]", "\ufffd", text)


def _plain(value: Any) -> Any:
    """What JSON holds the same everywhere: text for dates and the like, nothing for bytes."""
    if isinstance(value, dict):
        return {clean_text(str(name)): _plain(inner) for name, inner in value.items() if not isinstance(inner, bytes)}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return clean_text(str(value))
