"""The orientation of an image, from its EXIF or XMP: how its stored pixels are turned upright (EXIF 2.32, tag 0112)."""

from __future__ import annotations

import re
import struct

_XMP = re.compile(rb"tiff:Orientation(?:\s*=\s*[\"']|>)\s*([1-8])")


def orientation(exif: bytes | None, xmp: bytes | None = None) -> int:
    """Return the orientation, 1 to 8, as Pillow's `exif_transpose` finds it: XMP counts if EXIF does not state one."""
    stated = _in_exif(exif) if exif else None
    if stated is None and xmp and (found := _XMP.search(xmp)):
        stated = int(found[1])
    return stated if stated and 1 <= stated <= 8 else 1


def _in_exif(exif: bytes) -> int | None:
    """Return what EXIF states, None if nothing: it is often damaged, and the image is used all the same."""
    if exif[:4] not in (b"II*\0", b"MM\0*"):
        return None
    order = "<" if exif[:1] == b"I" else ">"
    try:
        (table,) = struct.unpack_from(order + "I", exif, 4)
        (count,) = struct.unpack_from(order + "H", exif, table)
        for entry in range(table + 2, table + 2 + 12 * count, 12):
            tag, kind = struct.unpack_from(order + "HH", exif, entry)
            if tag == 0x0112:
                return int(struct.unpack_from(order + ("I" if kind == 4 else "H"), exif, entry + 8)[0])
    except struct.error:
        pass
    return None
