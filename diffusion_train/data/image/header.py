"""Read the header of an image without decoding it."""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

from diffusion_train.data.image.orientation import orientation

FORMATS = ("JPEG", "PNG", "WEBP", "GIF")
MAX_BYTES = 1 << 26
_MAX_INFLATED = 1 << 22  # bytes of a compressed text or profile
Box = tuple[int, int, int, int]


class ImageError(ValueError):
    """An image that cannot or must not be decoded."""


class TooManyPixels(ImageError):
    """An image with more pixels than are decoded."""


class Header(NamedTuple):
    """The header of an image: width and height in pixels, upright, and a mode of L, RGB, CMYK, P, LA and RGBA.

    `orientation` is that of EXIF or XMP, 1 if it is missing or invalid; `unusual_orientation` means that it is neither in
    JPEG's or WebP's EXIF nor in PNG's eXIf. `profile` is the ICC profile, None if there is none. `alpha` means that parts may be transparent. `frame` is
    the box (left, top, right, bottom) of a first frame that does not fill the image. `cut` means that the end of a PNG is
    missing, perhaps with its orientation. `buffered` is a JPEG whose coefficients libjpeg holds all at once: progressive, or
    with several scans.
    """

    format: str
    width: int
    height: int
    mode: str
    bits: int = 8
    orientation: int = 1
    alpha: bool = False
    animated: bool = False
    frame: Box | None = None
    cut: bool = False
    profile: bytes | None = None
    unusual_orientation: bool = False
    buffered: bool = False

    @property
    def rotated(self) -> bool:
        """Whether the pixels are stored in another orientation than the upright one."""
        return self.orientation > 1

    @property
    def stored_size(self) -> tuple[int, int]:
        """(width, height) of the pixels as stored, before they are turned upright."""
        return (self.height, self.width) if self.orientation >= 5 else (self.width, self.height)


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
        return _jpeg
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return _png
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return _webp
    if data.startswith((b"GIF87a", b"GIF89a")):
        return _gif
    raise ImageError(f"not a {', '.join(FORMATS)} image: starts with {data[:12]!r}" if data else "empty")


_XMP_IN_JPEG, _ICC_IN_JPEG = b"http://ns.adobe.com/xap/1.0/\0", b"ICC_PROFILE\0"


def _jpeg(data: bytes) -> Header:
    frame, exif, xmp, profile, in_first_scan = None, None, None, [], 0
    for marker, start, end in _jpeg_segments(data):
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            frame = frame or (*struct.unpack_from(">BHHB", data, start), marker > 0xC1)
        elif marker == 0xDA:
            in_first_scan = data[start]
        elif marker == 0xE1 and exif is None and data.startswith(b"Exif\0\0", start):
            exif = data[start + 6 : end]
        elif marker == 0xE1 and data.startswith(_XMP_IN_JPEG, start):
            xmp = data[start + len(_XMP_IN_JPEG) : end]
        elif marker == 0xE2 and data.startswith(_ICC_IN_JPEG, start):
            profile.append(data[start + len(_ICC_IN_JPEG) : end])
    if frame is None:
        raise ImageError("a JPEG without a frame")
    bits, height, width, components, progressive = frame
    mode = {1: "L", 3: "RGB", 4: "CMYK"}[components]
    buffered = progressive or in_first_scan < components
    header = _oriented(Header("JPEG", width, height, mode, bits, buffered=buffered), exif, xmp)
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


def _png(data: bytes) -> Header:
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
    return _oriented(header, exif, texts.get("xmp"), texts.get("exif"))


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


def _oriented(header: Header, exif: bytes | None, xmp: bytes | None, other_exif: bytes | None = None) -> Header:
    """Return the header with its orientation. `other_exif` is EXIF in another than its usual container."""
    if not (exif or xmp or other_exif):
        return header
    found = orientation(exif or other_exif, xmp)
    return header._replace(orientation=found, unusual_orientation=found != orientation(exif))


def _webp(data: bytes) -> Header:
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
        frame = _unless_whole((left, top, left + across, top + down), width, height)
    alpha = bool(flags & 0x10) or frame is not None
    mode, animated = "RGBA" if flags & 0x10 else "RGB", moving and len(frames) > 1
    header = Header("WEBP", width, height, mode, 8, 1, alpha, animated, frame, profile=profile)
    return _oriented(header, exif, xmp)


def _three_bytes(data: bytes, offset: int) -> int:
    return data[offset] | data[offset + 1] << 8 | data[offset + 2] << 16


def _gif(data: bytes) -> Header:
    width, height = struct.unpack_from("<HH", data, 6)
    offset = 13 + _colour_table(data[10])
    box, alpha, animated = None, False, False
    try:
        while data[offset] != 0x3B and not animated:
            if data[offset] == 0x2C and box:
                animated = True
            elif data[offset] == 0x2C:
                left, top, across, down, flags = struct.unpack_from("<HHHHB", data, offset + 1)
                box = (left, top, left + across, top + down)
                offset = _after_blocks(data, offset + 11 + _colour_table(flags))
            elif data[offset] == 0x21:
                alpha = alpha or (not box and data[offset + 1] == 0xF9 and bool(data[offset + 3] & 1))
                offset = _after_blocks(data, offset + 2)
            else:
                offset += 1
    except IndexError:
        pass  # truncated; use what has been read
    if box is None:
        raise ImageError("a GIF without an image")
    width, height = max(width, box[2]), max(height, box[3])  # a frame outside the screen enlarges it
    frame = _unless_whole(box, width, height)
    return Header("GIF", width, height, "P", alpha=alpha or frame is not None, animated=animated, frame=frame)


def _unless_whole(box: Box, width: int, height: int) -> Box | None:
    return None if box == (0, 0, width, height) else box


def _colour_table(flags: int) -> int:
    """Return the size of the colour table in bytes."""
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _after_blocks(data: bytes, offset: int) -> int:
    while size := data[offset]:
        offset += size + 1
    return offset + 1
