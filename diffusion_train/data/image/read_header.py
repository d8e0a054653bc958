"""Read the header of an image without decoding it."""

from __future__ import annotations

import struct
from collections.abc import Callable

from diffusion_train.data.image.gif_header import gif_header
from diffusion_train.data.image.header import FORMATS, MAX_BYTES, Header, ImageError
from diffusion_train.data.image.jpeg_header import jpeg_header
from diffusion_train.data.image.png_header import png_header
from diffusion_train.data.image.webp_header import webp_header


def image_header(data: bytes) -> Header:
    """Return the header of an image. Raises ImageError if it is not one of FORMATS or has more than MAX_BYTES."""
    if len(data) > MAX_BYTES:
        raise ImageError(f"an image must have at most {MAX_BYTES} bytes, got {len(data)}")
    try:
        header = _reader(data)(data)
    except (IndexError, KeyError, ValueError, struct.error) as error:
        if isinstance(error, ImageError):
            raise
        raise ImageError("the header is truncated or damaged") from error
    if not header.width or not header.height:
        raise ImageError(f"an image must have at least one pixel, got {header.width} x {header.height}")
    return header._replace(width=header.height, height=header.width) if header.orientation >= 5 else header


def image_size(data: bytes) -> tuple[int, int]:
    """Return (width, height) of the upright image. Raises ImageError."""
    header = image_header(data)
    return header.width, header.height


def _reader(data: bytes) -> Callable[[bytes], Header]:
    if data.startswith(b"\xff\xd8\xff"):
        return jpeg_header
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return png_header
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return webp_header
    if data.startswith((b"GIF87a", b"GIF89a")):
        return gif_header
    raise ImageError(f"not a {', '.join(FORMATS)} image: starts with {data[:12]!r}" if data else "empty")
