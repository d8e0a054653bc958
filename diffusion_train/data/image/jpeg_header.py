"""Read the header of a JPEG (ITU-T T.81, annex B)."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from diffusion_train.data.image.header import Header, ImageError

_XMP, _ICC = b"http://ns.adobe.com/xap/1.0/\0", b"ICC_PROFILE\0"


def jpeg_header(data: bytes) -> Header:
    frame, exif, xmp, profile, in_first_scan = None, None, None, [], 0
    for marker, start, end in _jpeg_segments(data):
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            frame = frame or (*struct.unpack_from(">BHHB", data, start), marker > 0xC1)
        elif marker == 0xDA:
            in_first_scan = data[start]
        elif marker == 0xE1 and exif is None and data.startswith(b"Exif\0\0", start):
            exif = data[start + 6 : end]
        elif marker == 0xE1 and data.startswith(_XMP, start):
            xmp = data[start + len(_XMP) : end]
        elif marker == 0xE2 and data.startswith(_ICC, start):
            profile.append(data[start + len(_ICC) : end])
    if frame is None:
        raise ImageError("a JPEG without a frame")
    bits, height, width, components, progressive = frame
    mode = {1: "L", 3: "RGB", 4: "CMYK"}[components]
    buffered = progressive or in_first_scan < components
    header = Header("JPEG", width, height, mode, bits, buffered=buffered).oriented(exif, xmp)
    return header._replace(profile=_joined(profile)) if profile else header


def _joined(parts: list[bytes]) -> bytes:
    """Return the profile in parts, which start with number and count; an incomplete one is b"", which is broken."""
    whole = all(part[:2] == bytes([number, len(parts)]) for number, part in enumerate(sorted(parts)[:255], 1))
    return b"".join(part[2:] for part in sorted(parts)) if whole else b""


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield (marker, start, end) of the contents of each segment up to the header of the first scan."""
    offset = 2
    while True:
        offset = data.index(b"\xff", offset)
        while data[offset] == 0xFF:  # a marker may have any number of them before it
            offset += 1
        marker = data[offset]
        offset += 1
        if marker == 0xD9:
            return
        if marker > 1 and not 0xD0 <= marker <= 0xD8:
            (length,) = struct.unpack_from(">H", data, offset)
            yield marker, offset + 2, offset + length
            offset += max(2, length)
        if marker == 0xDA:
            return
