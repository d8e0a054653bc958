"""Read the header of a WebP (RFC 9649)."""

from __future__ import annotations

import struct

from diffusion_train.data.image.header import Header, ImageError, unless_whole


def webp_header(data: bytes) -> Header:
    kind = data[12:16]
    if kind == b"VP8X":
        return _extended_webp(data)
    if kind == b"VP8L" and data[20] == 0x2F:
        (bits,) = struct.unpack_from("<I", data, 21)
        alpha = bool(bits >> 28 & 1)
        return Header("WEBP", (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1, "RGBA" if alpha else "RGB", alpha=alpha)
    if kind == b"VP8 " and data[23:26] == b"\x9d\x01\x2a":
        width, height = struct.unpack_from("<HH", data, 26)
        return Header("WEBP", width & 0x3FFF, height & 0x3FFF, "RGB")
    raise ImageError("a WebP without an image")


def _extended_webp(data: bytes) -> Header:
    flags, width, height = data[20], _three_bytes(data, 24) + 1, _three_bytes(data, 27) + 1
    frames, exif, xmp, profile, offset = [], None, None, None, 12
    while offset + 8 <= len(data):
        name, length = struct.unpack_from("<4sI", data, offset)
        if name == b"ANMF":
            frames.append(offset + 8)
        elif name == b"EXIF" and exif is None:
            exif = data[offset + 8 : offset + 8 + length].removeprefix(b"Exif\0\0")
        elif name == b"XMP " and xmp is None:
            xmp = data[offset + 8 : offset + 8 + length]
        elif name == b"ICCP" and profile is None:
            profile = data[offset + 8 : offset + 8 + length]
        offset += 8 + length + length % 2
    moving, frame = bool(flags & 0x02), None
    if moving and frames:
        left, top = (2 * _three_bytes(data, frames[0] + byte) for byte in (0, 3))
        across, down = (_three_bytes(data, frames[0] + byte) + 1 for byte in (6, 9))
        frame = unless_whole((left, top, left + across, top + down), width, height)
    alpha = bool(flags & 0x10) or frame is not None
    mode, animated = "RGBA" if flags & 0x10 else "RGB", moving and len(frames) > 1
    header = Header("WEBP", width, height, mode, 8, 1, alpha, animated, frame, profile=profile)
    return header.oriented(exif, xmp)


def _three_bytes(data: bytes, offset: int) -> int:
    return data[offset] | data[offset + 1] << 8 | data[offset + 2] << 16
