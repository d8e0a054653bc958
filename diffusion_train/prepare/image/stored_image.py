"""The image that a shard stores: the bytes of the source, or a JPEG or PNG of a converted or shrunk one."""

from __future__ import annotations

import io
import warnings

from PIL import Image

from diffusion_train.data.image.decode import MAX_PIXELS, decode_image, stored
from diffusion_train.data.image.ground import WHITE
from diffusion_train.data.image.header import FORMATS, MAX_BYTES, Header, ImageError, TooManyPixels
from diffusion_train.data.image.read_header import image_header
from diffusion_train.prepare.image.formats import converted_format
from diffusion_train.prepare.image.pillow_formats import decode_pillow, pillow_header
from diffusion_train.prepare.image.svg import draw_svg, svg_header

_LOSSY = ("JPEG", "WEBP", "HEIF", "AVIF")


def source_header(data: bytes, svg_side: int) -> Header:
    """Return the header of an image of any format that `prepare` reads, without decoding it.

    An SVG is drawn with a longer side of `svg_side` pixels. Raises ImageError.
    """
    format = converted_format(data)
    if format is None:
        return image_header(data)
    return svg_header(data, svg_side) if format == "SVG" else pillow_header(data, format)


def stored_image(data: bytes, header: Header, max_side: int | None) -> bytes:
    """Return what a shard stores: `data` itself, unless its format or a longer side above `max_side` forbids it.

    Opaque images of lossy formats become JPEG and all others PNG: the first frame, upright, sRGB, without a colour
    profile. Raises TooManyPixels before it decodes, and ImageError.
    """
    longer = max(header.width, header.height)
    is_large = max_side is not None and longer > max_side
    if header.format in FORMATS and not is_large:
        if header.width * header.height > MAX_PIXELS:
            raise TooManyPixels(f"{header.width} x {header.height}")
        return data
    scale = max_side / longer if max_side is not None and is_large else 1.0
    size = max(1, round(header.width * scale)), max(1, round(header.height * scale))
    pixels = _decoded(data, header, size)
    return _encoded(pixels.resize(size, Image.Resampling.LANCZOS, stored(pixels).box) if is_large else pixels, header)


def _decoded(data: bytes, header: Header, size: tuple[int, int]) -> Image.Image:
    """Return RGB or RGBA pixels; a JPEG of too many pixels is reduced while it is decoded, to more than `size`."""
    is_huge = header.width * header.height > MAX_PIXELS
    if header.format in FORMATS:
        at_least = size[::-1] if is_huge else (0, 0)
        with warnings.catch_warnings(action="ignore"):  # Pillow warns of decompression bombs below our limit
            return decode_image(data, None if header.alpha else WHITE, at_least, huge="reduce")
    if is_huge:
        raise TooManyPixels(f"{header.width} x {header.height}")
    return draw_svg(data, header) if header.format == "SVG" else decode_pillow(data, header)


def _encoded(pixels: Image.Image, header: Header) -> bytes:
    out = io.BytesIO()
    if header.format in _LOSSY and pixels.mode == "RGB":
        pixels.save(out, "JPEG", quality=95, subsampling=0)
    else:
        pixels.save(out, "PNG")
    if out.tell() > MAX_BYTES:
        raise ImageError(f"has {out.tell() >> 20} MiB as PNG, more than {MAX_BYTES >> 20}; set prepare.max_side")
    return out.getvalue()
