"""The formats of images that `prepare` reads: the names of their files, and their first bytes."""

from __future__ import annotations

import os

from diffusion_train.data.image.decode import IMAGE_EXTENSIONS
from diffusion_train.data.image.header import MAX_BYTES

CONVERTED = ("avif", "bmp", "heic", "heif", "svg", "tif", "tiff")  # shards hold them as JPEG or PNG
READABLE = (*IMAGE_EXTENSIONS, *CONVERTED)
_LARGER = 1 << 28  # bytes of MAX_PIXELS without compression, with 4 channels
_MOST_BYTES = {"bmp": _LARGER, "tif": _LARGER, "tiff": _LARGER, "svg": 1 << 24}
_HEIF, _AVIF = {b"heic", b"heix", b"heim", b"heis", b"mif1", b"mif2", b"msf1"}, {b"avif", b"avis"}


def extension(name: str) -> str:
    """Return the extension of a file name in lower case, without its dot."""
    return os.path.splitext(name)[1][1:].lower()


def most_bytes(kind: str) -> int:
    """Return how many bytes an image may have; `kind` is its extension,
    or its format as `converted_format` names it.
    """
    return _MOST_BYTES.get(kind.lower(), MAX_BYTES)


def converted_format(data: bytes) -> str | None:
    """Return the format of an image that must be converted: HEIF, AVIF, TIFF, BMP or SVG; None for any other data."""
    if data[4:8] == b"ftyp":
        return _of_brands(data)
    if data.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        return "TIFF"
    if data.startswith(b"BM"):
        return "BMP"
    start = data[:4096].removeprefix(b"\xef\xbb\xbf").lstrip()
    return "SVG" if start.startswith(b"<") and b"<svg" in data[: 1 << 16] else None


def _of_brands(data: bytes) -> str | None:
    """Return the format that the first box of an ISO base media file states (ISO/IEC 14496-12, section 4.3)."""
    end = min(int.from_bytes(data[:4], "big"), 256)
    brands = {data[8:12], *(data[start : start + 4] for start in range(16, end, 4))}
    return "AVIF" if brands & _AVIF else "HEIF" if brands & _HEIF else None
