"""Read the header of a PNG (https://www.w3.org/TR/png)."""

from __future__ import annotations

import re
import struct
import zlib

from diffusion_train.data.image.header import Header, ImageError

_MAX_INFLATED = 1 << 22  # bytes of a compressed text or profile


def png_header(data: bytes) -> Header:
    length, name, width, height, bits, kind = struct.unpack_from(">I4sIIBB", data, 8)
    if (length, name) != (13, b"IHDR"):
        raise ImageError("a PNG that does not start with its header")
    mode = {0: "L", 2: "RGB", 3: "P", 4: "LA", 6: "RGBA"}[kind]
    alpha, frames, exif, profile = mode.endswith("A"), 1, None, None
    texts: dict[str, bytes] = {}
    offset = 33
    while name != b"IEND" and offset + 8 <= len(data):
        length, name = struct.unpack_from(">I4s", data, offset)
        if name == b"tRNS":
            alpha = True
        elif name == b"acTL":
            (frames,) = struct.unpack_from(">I", data, offset + 8)
        elif name == b"eXIf" and exif is None:  # it may come after the pixels
            exif = data[offset + 8 : offset + 8 + length]
        elif name == b"iCCP" and profile is None:
            profile = _inflated(data[offset + 8 : offset + 8 + length].partition(b"\0")[2][1:])
        elif name in (b"tEXt", b"zTXt", b"iTXt"):
            key, _, text = data[offset + 8 : offset + 8 + length].partition(b"\0")
            if key in _TEXTS and (found := _text(name, text)):
                texts[_TEXTS[key]] = found
        offset += length + 12
    header = Header("PNG", width, height, mode, bits, 1, alpha, frames > 1, None, name != b"IEND", profile)
    return header.oriented(exif, texts.get("xmp"), texts.get("exif"))


# Texts of a PNG that hold metadata, and which; ImageMagick writes "raw profiles" as hexadecimal digits.
_TEXTS = {b"Raw profile type exif": "exif", b"Raw profile type xmp": "xmp", b"XML:com.adobe.xmp": "xmp"}


def _text(chunk: bytes, text: bytes) -> bytes:
    """Return the contents of a text chunk of a PNG after its key; empty if it is damaged."""
    compressed = chunk == b"zTXt" or text[:1] == b"\1"
    if chunk == b"iTXt":
        text = text[2:].split(b"\0", 2)[-1]  # after language and translated key
    elif chunk == b"zTXt":
        text = text[1:]
    text = _inflated(text) if compressed and chunk != b"tEXt" else text
    raw = _RAW_PROFILE.match(text)
    try:
        return bytes.fromhex(text[raw.end() :].decode("ascii")).removeprefix(b"Exif\0\0") if raw else text
    except ValueError:
        return b""


_RAW_PROFILE = re.compile(rb"\s*\w+\s+\d+\s+(?=[0-9a-fA-F\s]*$)")  # its kind and its length in bytes


def _inflated(data: bytes) -> bytes:
    """Return decompressed data; empty if they are damaged or too large."""
    inflater = zlib.decompressobj()
    try:
        inflated = inflater.decompress(data, _MAX_INFLATED)
    except zlib.error:
        return b""
    return b"" if inflater.unconsumed_tail else inflated
