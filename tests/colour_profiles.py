"""ICC profiles (ICC.1:2001) whose effect is a known answer, and images with them."""

from __future__ import annotations

import io
import struct
from typing import Any

from PIL import Image, ImageCms

# Columns of XYZ (D50) of the sRGB primaries
_RED, _GREEN, _BLUE = (0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.71410)
_WHITE = (0.9642, 1.0, 0.8249)


def _xyz(values: tuple[float, ...]) -> bytes:
    return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(value * 65536) for value in values))


def _gamma(value: float) -> bytes:
    return b"curv\0\0\0\0" + struct.pack(">IH2x", 1, round(value * 256))


def profile(space: bytes, kind: bytes, connection: bytes = b"XYZ ", **tags: bytes) -> bytes:
    """A profile of version 2 with these tags; `kind` is mntr or prtr."""
    whole = {"desc": b"desc" + bytes(8 + 90), "cprt": b"text\0\0\0\0none\0\0\0\0", "wtpt": _xyz(_WHITE), **tags}
    table, body, start = b"", b"", 132 + 12 * len(whole)
    for name, content in whole.items():
        table += name.encode() + struct.pack(">II", start + len(body), len(content))
        body += content.ljust(-(-len(content) // 4) * 4, b"\0")
    head = struct.pack(">8xI4s4s4s12x4s28x3i", 0x02400000, kind, space, connection, b"acsp", 63190, 65536, 54061)
    return (
        struct.pack(">I", start + len(body)) + head.ljust(128, b"\0")[4:] + struct.pack(">I", len(whole)) + table + body
    )


def _rgb(red: tuple[float, ...], green: tuple[float, ...], blue: tuple[float, ...], gamma: float) -> bytes:
    primaries = {"rXYZ": _xyz(red), "gXYZ": _xyz(green), "bXYZ": _xyz(blue)}
    return profile(b"RGB ", b"mntr", **primaries, **dict.fromkeys(("rTRC", "gTRC", "bTRC"), _gamma(gamma)))


def _ink(corner: int) -> bytes:
    """Lightness, a and b of a corner of CMYK: only black counts."""
    return bytes([0 if corner & 1 else 255, 128, 128])


_RAMP = bytes(range(256))
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
LINEAR = _rgb(_RED, _GREEN, _BLUE, 1.0)  # sRGB's primaries without its gamma
WIDE = _rgb((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457), 2.2)
LINEAR_GREY = profile(b"GRAY", b"mntr", kTRC=_gamma(1.0))
ONLY_BLACK_INK = profile(
    b"CMYK",
    b"prtr",
    b"Lab ",
    A2B0=b"mft1\0\0\0\0\4\3\2\0"
    + struct.pack(">9i", *(65536 * (i % 4 == 0) for i in range(9)))
    + 4 * _RAMP
    + b"".join(map(_ink, range(16)))
    + 3 * _RAMP,
)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def to_space(image: Image.Image, icc: bytes) -> Image.Image:
    """The sRGB image in the space of a profile."""
    srgb, space = ImageCms.createProfile("sRGB"), ImageCms.ImageCmsProfile(io.BytesIO(icc))
    return ImageCms.profileToProfile(image, srgb, space, outputMode="RGB")
