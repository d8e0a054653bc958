"""Files of every kind of image, with what they must show."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import pytest
from PIL import Image

Chunks = Sequence[tuple[bytes, bytes]]
BACKGROUND = (10, 200, 90)


class Picture(NamedTuple):
    """A file of some kind and the levels (H, W, 3) that it shows over `BACKGROUND`, to within `tolerance` a level."""

    data: bytes
    shows: np.ndarray
    tolerance: int = 1


@pytest.fixture(scope="session")
def photo() -> Image.Image:
    """A sharp photograph, 426 pixels a side."""
    with Image.open(f"{matplotlib.get_data_path()}/sample_data/grace_hopper.jpg") as image:
        return image.convert("RGB").crop((0, 0, 426, 426))


@pytest.fixture(scope="session")
def background() -> tuple[int, int, int]:
    return BACKGROUND


@pytest.fixture(scope="session")
def pictures() -> dict[str, Picture]:
    return PICTURES


def encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def raw_png(levels: np.ndarray, kind: int, bits: int, before: Chunks = (), after: Chunks = ()) -> bytes:
    """A PNG of levels (H, W) or (H, W, channels) with chunks before and after the pixels."""
    rows = levels.reshape(len(levels), -1)
    if bits == 16:
        packed = rows.astype(">u2").view(np.uint8)
    else:
        spread = np.unpackbits(rows.astype(np.uint8)[..., None], axis=-1)[..., 8 - bits :]
        packed = np.packbits(spread.reshape(len(rows), -1), axis=-1)
    body = zlib.compress(np.pad(packed, ((0, 0), (1, 0))).tobytes())
    header = struct.pack(">IIBBBBB", levels.shape[1], levels.shape[0], bits, kind, 0, 0, 0)
    chunks = [(b"IHDR", header), *before, (b"IDAT", body), *after, (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in chunks)


def png_chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def exif(orientation: int, order: str = "<", kind: int = 3) -> bytes:
    """EXIF with an entry before the orientation."""
    value = struct.pack(order + ("HH" if kind == 3 else "I"), *((orientation, 0) if kind == 3 else (orientation,)))
    entries = struct.pack(order + "HHII", 0x0100, 4, 1, 77) + struct.pack(order + "HHI", 0x0112, kind, 1) + value
    return (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "IH", 8, 2) + entries + bytes(4)


def jpeg_with(data: bytes, marker: int, body: bytes) -> bytes:
    """A segment more, right after the start."""
    return data[:2] + struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body + data[2:]


def riff(*chunks: tuple[bytes, bytes]) -> bytes:
    body = b"".join(name + struct.pack("<I", len(data)) + data + bytes(len(data) % 2) for name, data in chunks)
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def extended_webp(data: bytes, flags: int, width: int, height: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """The image of a simple WebP with a header that tells more, and further chunks."""
    canvas = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return riff((b"VP8X", bytes([flags, 0, 0, 0]) + canvas), (data[12:16], data[20:]), *chunks)


def smooth(width: int = 24, height: int = 16) -> np.ndarray:
    down, across = np.linspace(20, 230, height)[:, None], np.linspace(200, 40, width)[None]
    return np.stack(np.broadcast_arrays(down, across, 128), 2).round().astype(np.uint8)


def _jpegs() -> dict[str, Picture]:
    levels = smooth()
    image, grey = Image.fromarray(levels), Image.fromarray(levels[..., 0])
    best = {"quality": 98, "subsampling": 0}
    cmyk = image.convert("CMYK")
    # YCCK: luma and chroma of the inks, Adobe's inverted black, and a 2 in Adobe's segment that says so
    inks = np.asarray(cmyk)
    luma_chroma = np.asarray(Image.fromarray(inks[..., :3].copy()).convert("YCbCr"))
    stored = np.dstack([luma_chroma, 255 - inks[..., 3]])
    ycck = encode(Image.fromarray(255 - stored, "CMYK"), "jpeg", **best)  # Pillow stores the inverse
    at = ycck.index(b"Adobe") + 11
    return {
        "jpeg": Picture(encode(image, "jpeg", **best), levels, 4),
        "jpeg-subsampled": Picture(encode(image, "jpeg", quality=98), levels, 12),
        "jpeg-progressive": Picture(encode(image, "jpeg", progressive=True, **best), levels, 4),
        "jpeg-grey": Picture(encode(grey, "jpeg", **best), np.dstack([levels[..., 0]] * 3), 4),
        "jpeg-stored-as-rgb": Picture(encode(image, "jpeg", keep_rgb=True, **best), levels, 4),
        "jpeg-cmyk": Picture(encode(cmyk, "jpeg", **best), levels, 5),
        "jpeg-ycck": Picture(ycck[:at] + b"\2" + ycck[at + 1 :], levels, 5),
        "jpeg-of-several-pictures": Picture(
            encode(image, "mpo", save_all=True, append_images=[Image.new("RGB", (9, 9))], **best), levels, 4
        ),
        "jpeg-with-junk-behind": Picture(encode(image, "jpeg", **best) + b"\xff\xd8junk", levels, 4),
        "jpeg-with-fill-bytes": Picture(
            encode(image, "jpeg", **best).replace(b"\xff\xdb", b"\xff\xff\xff\xdb"), levels, 4
        ),
    }


def _pngs() -> dict[str, Picture]:
    levels = smooth()
    grey = levels[..., 0]
    few = {bits: (grey >> (8 - bits)) for bits in (1, 2, 4)}
    palette = np.arange(768, dtype=np.uint8).reshape(256, 3)[::-1]
    deep = np.linspace(0, 65535, 24 * 16).astype(np.uint16).reshape(16, 24)
    rgb = np.dstack([deep, deep[::-1], deep[:, ::-1]])
    return {
        "png": Picture(raw_png(levels, 2, 8), levels, 0),
        "png-grey": Picture(raw_png(grey, 0, 8), np.dstack([grey] * 3), 0),
        **{
            f"png-grey-{bits}-bit": Picture(
                raw_png(few[bits], 0, bits), np.dstack([few[bits] * (255 // (2**bits - 1))] * 3), 0
            )
            for bits in few
        },
        "png-palette": Picture(raw_png(grey, 3, 8, [(b"PLTE", palette.tobytes())]), palette[grey], 0),
        "png-palette-2-bit": Picture(raw_png(few[2], 3, 2, [(b"PLTE", palette[:4].tobytes())]), palette[few[2]], 0),
        "png-grey-16-bit": Picture(raw_png(deep, 0, 16), np.dstack([deep / 257] * 3)),
        "png-16-bit": Picture(raw_png(rgb, 2, 16), rgb / 257),
    }


def _transparent_pngs() -> dict[str, Picture]:
    levels = smooth()
    grey = levels[..., 0]
    few = {bits: (grey >> (8 - bits)) for bits in (1, 2, 4, 8)}
    deep = np.full((16, 24), 0x1234, np.uint16)
    deep[:, 12:] = 0xABCD
    hole = np.indices((16, 24))[1] >= 12
    alpha = np.where(hole, 0, 200)[..., None]
    mixed = (levels * (alpha / 255) + np.array(BACKGROUND) * (1 - alpha / 255)).round()
    grey_mixed = (grey[..., None] * (alpha / 255) + np.array(BACKGROUND) * (1 - alpha / 255)).round()
    palette = np.arange(768, dtype=np.uint8).reshape(256, 3)[::-1]

    def key(*level: int) -> list[tuple[bytes, bytes]]:
        return [(b"tRNS", struct.pack(f">{len(level)}H", *level))]

    return {
        "png-alpha": Picture(raw_png(np.dstack([levels, alpha]), 6, 8), mixed),
        "png-grey-alpha": Picture(raw_png(np.dstack([grey, alpha]), 4, 8), grey_mixed),
        "png-alpha-16-bit": Picture(raw_png(np.dstack([levels, alpha]).astype(int) * 257, 6, 16), mixed),
        "png-grey-alpha-16-bit": Picture(raw_png(np.dstack([grey, alpha]).astype(int) * 257, 4, 16), grey_mixed),
        "png-palette-alpha": Picture(
            raw_png(hole * 1, 3, 8, [(b"PLTE", palette[:2].tobytes()), (b"tRNS", b"\xff\0")]),
            _over(np.broadcast_to(palette[0], (16, 24, 3)), hole),
        ),
        **{
            f"png-grey-{bits}-bit-one-level-transparent": Picture(
                raw_png(few[bits], 0, bits, key(few[bits][15, 0])),
                _over(np.dstack([few[bits] * (255 // (2**bits - 1))] * 3), few[bits] == few[bits][15, 0]),
                0,
            )
            for bits in few
        },
        "png-grey-16-bit-one-level-transparent": Picture(
            raw_png(deep, 0, 16, key(0xABCD)), _over(np.dstack([deep / 257] * 3), hole)
        ),
        "png-one-colour-transparent": Picture(
            raw_png(levels, 2, 8, key(*levels[3, 4])), _over(levels, (levels == levels[3, 4]).all(-1)), 0
        ),
        "png-16-bit-one-colour-transparent": Picture(
            raw_png(np.dstack([deep] * 3), 2, 16, key(0xABCD, 0xABCD, 0xABCD)), _over(np.dstack([deep / 257] * 3), hole)
        ),
    }


def _webps() -> dict[str, Picture]:
    levels = smooth()
    image, frames = Image.fromarray(levels), [Image.new("RGB", (24, 16), colour) for colour in ("lime", "blue")]
    clear = Image.fromarray(np.dstack([levels, np.where(np.indices((16, 24))[1] >= 12, 0, 255).astype(np.uint8)]))
    small = encode(Image.fromarray(levels[:8, :8]), "webp", lossless=True)
    frame = (
        b"".join(part.to_bytes(3, "little") for part in (2, 1, 7, 7, 100)) + b"\2" + small[12:]  # at 4, 2; 8 x 8
    )
    canvas = bytes([2, 0, 0, 0]) + (23).to_bytes(3, "little") + (15).to_bytes(3, "little")
    partly = riff((b"VP8X", canvas), (b"ANIM", bytes(6)), (b"ANMF", frame), (b"ANMF", frame))
    return {
        "webp": Picture(encode(image, "webp", quality=100), levels, 12),
        "webp-lossless": Picture(encode(image, "webp", lossless=True), levels, 0),
        "webp-alpha": Picture(encode(clear, "webp", lossless=True), _over(levels, np.asarray(clear)[..., 3] == 0)),
        "webp-lossy-alpha": Picture(
            encode(clear, "webp", quality=100), _over(levels, np.asarray(clear)[..., 3] == 0), 16
        ),
        "webp-animated": Picture(encode(image, "webp", save_all=True, append_images=frames, lossless=True), levels, 0),
        "webp-animated-first-frame-in-part": Picture(partly, _placed(levels[:8, :8], 4, 2), 0),
    }


def _gifs() -> dict[str, Picture]:
    levels = np.asarray(Image.fromarray(smooth()).quantize(64).convert("RGB"))
    image = Image.fromarray(levels).quantize(64)
    frames = [Image.new("RGB", (24, 16), colour) for colour in ("lime", "blue")]
    hole = np.asarray(image) == np.asarray(image)[3, 4]
    # a screen larger than its frame, which stands at 4, 2; and one smaller
    plain = encode(image, "gif")
    at = plain.index(b"\x2c\0\0\0\0")
    larger = plain[:6] + struct.pack("<HH", 40, 30) + plain[10 : at + 1] + struct.pack("<HH", 4, 2) + plain[at + 5 :]
    smaller = plain[:6] + struct.pack("<HH", 5, 5) + plain[10:]
    return {
        "gif": Picture(plain, levels, 0),
        "gif-transparent": Picture(
            encode(image, "gif", transparency=int(np.asarray(image)[3, 4])), _over(levels, hole), 0
        ),
        "gif-animated": Picture(encode(image, "gif", save_all=True, append_images=frames), levels, 0),
        "gif-first-frame-in-part": Picture(larger, _placed(levels, 4, 2, (40, 30)), 0),
        "gif-frame-beyond-the-screen": Picture(smaller, levels, 0),
        "apng": Picture(encode(Image.fromarray(smooth()), "png", save_all=True, append_images=frames), smooth(), 0),
    }


def _turned() -> dict[str, Picture]:
    """Every EXIF orientation in every place that it is read from."""
    found = {}
    for orientation in range(1, 9):
        stored = smooth()
        shows = TURNS[orientation](stored)
        image = Image.fromarray(stored)
        jpeg, webp = encode(image, "jpeg", quality=98, subsampling=0), encode(image, "webp", lossless=True)
        little, big = exif(orientation), exif(orientation, ">", kind=4)
        for name, data in {
            "jpeg": jpeg_with(jpeg, 0xE1, b"Exif\0\0" + little),
            "jpeg-big-endian": jpeg_with(jpeg, 0xE1, b"Exif\0\0" + big),
            "png": raw_png(stored, 2, 8, [(b"eXIf", little)]),
            "png-behind": raw_png(stored, 2, 8, after=[(b"tEXt", b"a\0b"), (b"eXIf", big)]),
            "webp": extended_webp(webp, 8, 24, 16, (b"EXIF", little)),
            "webp-with-jpegs-prefix": extended_webp(webp, 8, 24, 16, (b"EXIF", b"Exif\0\0" + big)),
            **_unusual(stored, jpeg, webp, orientation),
        }.items():
            found[f"exif-{orientation}-{name}"] = Picture(data, shows, 4 if "jpeg" in name else 0)
    damaged = jpeg_with(jpeg, 0xE1, b"Exif\0\0" + exif(6)[:20])
    return {**found, "exif-damaged": Picture(damaged, stored, 4)}


def _unusual(stored: np.ndarray, jpeg: bytes, webp: bytes, orientation: int) -> dict[str, bytes]:
    """The orientation in texts of a PNG, as ImageMagick writes them, or in XMP alone."""
    digits = (b"Exif\0\0" + exif(orientation)).hex()
    raw = f"\nexif\n{len(digits) // 2:8d}\n{digits[:72]}\n{digits[72:]}\n".encode()
    attribute = b'<rdf:Description tiff:Orientation="%d"/>' % orientation
    element = b"<rdf:Description><tiff:Orientation>%d</tiff:Orientation></rdf:Description>" % orientation
    zipped, key = zlib.compress(attribute), b"XML:com.adobe.xmp\0"
    texts = {
        "raw-profile": (b"tEXt", b"Raw profile type exif\0" + raw),
        "raw-profile-zipped": (b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(raw)),
        "xmp": (b"iTXt", key + b"\0\0en\0key\0" + element),
        "xmp-zipped": (b"iTXt", key + b"\1\0\0\0" + zipped),
    }
    return {
        **{f"png-{name}": raw_png(stored, 2, 8, [chunk]) for name, chunk in texts.items()},
        "jpeg-xmp": jpeg_with(jpeg, 0xE1, b"http://ns.adobe.com/xap/1.0/\0" + attribute),
        "webp-xmp": extended_webp(webp, 4, 24, 16, (b"XMP ", element)),
        "png-exif-before-xmp": raw_png(
            stored, 2, 8, [(b"eXIf", exif(orientation)), (b"iTXt", key + b"\0\0\0\0" + _XMP_3)]
        ),
    }


_XMP_3 = b'<rdf:Description tiff:Orientation="3"/>'


# EXIF 2.32, tag 0112: which side of the stored picture is up, and which left
TURNS = {
    1: lambda levels: levels,
    2: lambda levels: levels[:, ::-1],
    3: lambda levels: levels[::-1, ::-1],
    4: lambda levels: levels[::-1],
    5: lambda levels: levels.swapaxes(0, 1),
    6: lambda levels: np.rot90(levels, -1),
    7: lambda levels: levels.swapaxes(0, 1)[::-1, ::-1],
    8: lambda levels: np.rot90(levels),
}


def _over(levels: np.ndarray, hole: np.ndarray) -> np.ndarray:
    return np.where(hole[..., None], BACKGROUND, levels)


def _placed(levels: np.ndarray, left: int, top: int, size: tuple[int, int] = (24, 16)) -> np.ndarray:
    out = np.tile(np.array(BACKGROUND), (size[1], size[0], 1))
    out[top : top + len(levels), left : left + levels.shape[1]] = levels
    return out


PICTURES = {**_jpegs(), **_pngs(), **_transparent_pngs(), **_webps(), **_gifs(), **_turned()}


@pytest.fixture(params=sorted(PICTURES))
def picture(request: pytest.FixtureRequest) -> Picture:
    return PICTURES[request.param]
