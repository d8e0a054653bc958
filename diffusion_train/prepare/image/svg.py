"""SVG: its size, and its pixels, drawn by resvg without fonts."""

from __future__ import annotations

import io
import re

import resvg_py
from PIL import Image

from diffusion_train.data.image.header import Header, ImageError
from diffusion_train.prepare.image.svg_safety import checked_svg

_PIXELS = {"": 1.0, "px": 1.0, "pt": 4 / 3, "pc": 16.0, "in": 96.0, "cm": 96 / 2.54, "mm": 96 / 25.4, "q": 96 / 101.6}
_LENGTH = re.compile(r"\s*\+?(\d+\.?\d*(?:e[+-]?\d+)?|\.\d+)\s*([a-z]*)\s*", re.IGNORECASE)


def svg_header(data: bytes, side: int) -> Header:
    """Return the header of an SVG drawn with a longer side of `side` pixels. Raises ImageError."""
    width, height = _size(checked_svg(data)[1])
    scale = side / max(width, height)
    return Header("SVG", max(1, round(width * scale)), max(1, round(height * scale)), "RGBA", alpha=True)


def draw_svg(data: bytes, header: Header) -> Image.Image:
    """Return an SVG as RGBA of the header's size, or as RGB if it covers everything. Raises ImageError."""
    text, _ = checked_svg(data)
    width, height = header.width, header.height
    try:
        drawn = resvg_py.svg_to_bytes(svg_string=text, skip_system_fonts=True, width=width, height=height)
    except ValueError as error:
        raise ImageError(f"resvg cannot draw it ({error})") from error
    image = Image.open(io.BytesIO(bytes(drawn)), formats=["PNG"]).convert("RGBA")
    is_opaque = image.getchannel("A").getextrema() == (255, 255)
    return image.convert("RGB") if is_opaque else image


def _size(root: dict[str, str]) -> tuple[float, float]:
    """Return (width, height) in pixels of CSS: those of the root, or those of its viewBox if one is missing or in %."""
    sides = [_length(root.get(name, "")) for name in ("width", "height")]
    numbers = [_length(part) for part in re.split(r"[\s,]+", root.get("viewBox", "").strip())]
    box = numbers[2:] if len(numbers) == 4 else [None, None]
    width, height = sides if all(sides) else box
    if not width or not height:
        raise ImageError("an SVG must state its size, by width and height or by viewBox")
    return width, height


def _length(text: str) -> float | None:
    match = _LENGTH.fullmatch(text)
    factor = _PIXELS.get(match[2].lower()) if match else None
    length = float(match[1]) * factor if match and factor else 0.0
    return length if 1e-3 <= length <= 1e7 else None
