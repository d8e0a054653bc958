"""Bytes of strangers -> RGB images and captions."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from PIL import Image, ImageOps

FORMATS = ("JPEG", "PNG", "WEBP", "GIF")
IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp", "gif")
MAX_BYTES = 1 << 26
MAX_PIXELS = 1 << 26  # 8192 x 8192
WHITE = (255, 255, 255)


class ImageError(ValueError):
    """An image that cannot or must not be decoded."""


def image_size(data: bytes) -> tuple[int, int]:
    """(width, height) as the header says, before any rotation. Raises ImageError."""
    with _pillow_errors(), _open(data) as image:
        return image.size


def decode_image(data: bytes, background: Sequence[int] = WHITE, at_least: int = 0) -> Image.Image:
    """First frame, upright, in RGB, transparent parts over `background`.

    A JPEG may come out smaller than stored, but with at least `at_least` pixels a side where it had them. Raises
    ImageError.
    """
    with _pillow_errors(), _open(data) as image:
        if image.width * image.height > MAX_PIXELS:
            raise ImageError(f"{image.width} x {image.height} pixels, more than {MAX_PIXELS} in all")
        if at_least:
            image.draft(None, (at_least, at_least))
        upright = ImageOps.exif_transpose(image)
        return _over(_to_eight_bits(upright), background)


def decode_caption(data: bytes) -> str:
    """UTF-8 without byte order mark or white space around; what is not UTF-8 becomes U+FFFD."""
    return data.decode("utf-8", "replace").removeprefix("\ufeff").strip()


def _open(data: bytes) -> Image.Image:
    if len(data) > MAX_BYTES:
        raise ImageError(f"{len(data)} bytes, more than {MAX_BYTES}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit is lower
        return Image.open(io.BytesIO(data), formats=FORMATS)


def _to_eight_bits(image: Image.Image) -> Image.Image:
    """16-bit grey, which Pillow's own conversion clips to white."""
    if not image.mode.startswith("I"):
        return image
    grey = np.asarray(image).astype(np.int64)
    eight = Image.fromarray(((grey + 128) // 257).astype(np.uint8))
    if "transparency" in image.info:
        alpha = np.where(grey == image.info["transparency"], 0, 255).astype(np.uint8)
        eight.putalpha(Image.fromarray(alpha))
    return eight


def _over(image: Image.Image, background: Sequence[int]) -> Image.Image:
    if not image.has_transparency_data:
        return image.convert("RGB")
    canvas = Image.new("RGBA", image.size, (*background, 255))
    return Image.alpha_composite(canvas, image.convert("RGBA")).convert("RGB")


@contextmanager
def _pillow_errors() -> Iterator[None]:
    """Damaged files make Pillow raise almost anything."""
    try:
        yield
    except (ImageError, MemoryError):
        raise
    except Exception as error:
        raise ImageError(f"not a whole {', '.join(FORMATS)} image ({type(error).__name__}: {error})") from error
