from __future__ import annotations

import io
import resource
import struct
import time
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from diffusion_train.data.decode import MAX_BYTES, ImageError, decode_caption, decode_image, image_size


def _encode(image: Image.Image, kind: str, **options) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def _pixels(image: Image.Image) -> np.ndarray:
    assert image.mode == "RGB"
    return np.asarray(image).astype(int)


def _smooth(mode: str = "RGB") -> Image.Image:
    ramp = np.linspace(20, 230, 24)
    return Image.fromarray(np.stack(np.broadcast_arrays(ramp[:, None], ramp[None], 128), 2).astype(np.uint8)).convert(
        mode
    )


@pytest.mark.parametrize(
    ("kind", "mode", "tolerance"),
    [
        ("png", "RGB", 0),
        ("png", "L", 0),
        ("png", "1", 0),
        ("png", "P", 0),
        ("jpeg", "RGB", 12),
        ("jpeg", "L", 6),
        ("webp", "RGB", 12),
        ("gif", "P", 0),
    ],
)
def test_every_mode_becomes_rgb(kind, mode, tolerance):
    image = _smooth(mode)
    options = {"quality": 98} if kind in ("jpeg", "webp") else {}
    difference = _pixels(decode_image(_encode(image, kind, **options))) - _pixels(image.convert("RGB"))
    assert abs(difference).max() <= tolerance


def test_cmyk_keeps_its_colours():
    red = Image.new("RGB", (16, 16), (200, 30, 40)).convert("CMYK")
    assert abs(_pixels(decode_image(_encode(red, "jpeg", quality=98))) - (200, 30, 40)).max() <= 4


def test_16_bit_grey_is_scaled_not_clipped():
    grey = Image.fromarray(np.full((8, 8), 128 * 257, np.uint16))
    assert (_pixels(decode_image(_encode(grey, "png"))) == 128).all()
    levels = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    out = _pixels(decode_image(_encode(Image.fromarray(levels), "png")))[..., 0]
    assert abs(out - levels / 257).max() <= 0.5


def test_16_bit_grey_with_a_transparent_level():
    levels = np.full((4, 4), 1000, np.uint16)
    levels[0] = 60000
    data = _encode(Image.fromarray(levels), "png")
    chunk = b"tRNS" + struct.pack(">H", 1000)
    at = data.index(b"IDAT") - 4
    data = data[:at] + struct.pack(">I", 2) + chunk + struct.pack(">I", zlib.crc32(chunk)) + data[at:]
    out = _pixels(decode_image(data, background=(10, 20, 30)))
    assert (out[1:] == (10, 20, 30)).all()
    assert (out[0] == round(60000 / 257)).all()


@pytest.mark.parametrize("kind", ["png", "webp"])
def test_transparency_shows_the_background(kind):
    image = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    image.paste((0, 0, 200, 255), (0, 0, 4, 8))
    options = {"lossless": True} if kind == "webp" else {}
    out = _pixels(decode_image(_encode(image, kind, **options), background=(1, 2, 3)))
    assert (out[:, :4] == (0, 0, 200)).all()
    assert (out[:, 4:] == (1, 2, 3)).all()


def test_half_transparent_is_mixed_with_the_background():
    out = _pixels(decode_image(_encode(Image.new("RGBA", (4, 4), (0, 0, 0, 128)), "png")))
    assert abs(out - 127).max() <= 1


@pytest.mark.parametrize("mode", ["P", "LA", "RGB", "L"])
def test_transparency_of_other_modes(mode):
    if mode == "LA":
        data = _encode(Image.new("LA", (4, 4), (0, 0)), "png")
    else:
        data = _encode(Image.new(mode, (4, 4), 0), "png", transparency=(0, 0, 0) if mode == "RGB" else 0)
    assert (_pixels(decode_image(data, background=(9, 8, 7))) == (9, 8, 7)).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_once(orientation):
    stored = _smooth().resize((24, 16))
    exif = Image.Exif()
    exif[0x0112] = orientation
    out = decode_image(_encode(stored, "png", exif=exif))
    stored.getexif()[0x0112] = orientation
    assert (_pixels(out) == _pixels(ImageOps.exif_transpose(stored))).all()
    assert out.size == ((24, 16) if orientation < 5 else (16, 24))
    assert out.getexif().get(0x0112, 1) == 1


@pytest.mark.parametrize("kind", ["gif", "webp"])
def test_an_animation_gives_its_first_frame(kind):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime")]
    data = _encode(frames[0], kind, save_all=True, append_images=frames[1:], lossless=True)
    assert (_pixels(decode_image(data)) == (255, 0, 0)).all()


def _bomb(side: int = 12_000) -> bytes:
    """A PNG of a few hundred kB that unpacks to hundreds of MB."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    packer = zlib.compressobj()
    rows = packer.compress(bytes(3 * side + 1) * 10)
    first, again = (
        part + packer.flush(zlib.Z_FULL_FLUSH) for part in (rows, packer.compress(bytes(3 * side + 1) * 10))
    )
    body = first + again * (side // 10 - 1) + packer.flush()
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def test_a_bomb_is_refused_from_its_header():
    data = _bomb()
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(ImageError, match="12000 x 12000 pixels"):
        decode_image(data)
    assert time.process_time() - start < 0.05
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kB


def _tiff() -> bytes:
    return _encode(_smooth(), "tiff")


@pytest.mark.parametrize(
    "data",
    [b"", b"not an image", _tiff(), _encode(_smooth(), "jpeg")[:400], _encode(_smooth(), "png")[:-40]],
    ids=["empty", "text", "format-not-listed", "cut-jpeg", "cut-png"],
)
def test_what_is_no_whole_image_of_a_listed_format_is_refused(data):
    with pytest.raises(ImageError):
        decode_image(data)


def test_too_many_bytes_are_refused():
    with pytest.raises(ImageError, match="bytes, more than"):
        decode_image(bytes(MAX_BYTES + 1))


def test_a_large_jpeg_is_decoded_no_larger_than_asked():
    photo = _smooth().resize((400, 320), Image.Resampling.BICUBIC)
    data = _encode(photo, "jpeg", quality=95)
    small = decode_image(data, at_least=32)
    assert min(small.size) < 320
    assert min(small.size) >= 32
    assert decode_image(data).size == (400, 320) == image_size(data)
    reference = photo.resize(small.size, Image.Resampling.BOX)
    assert abs(_pixels(small) - _pixels(reference)).max() <= 8


@pytest.mark.parametrize(
    ("data", "caption"),
    [
        (b"ein Apfel\n", "ein Apfel"),
        (b"\xef\xbb\xbfapple", "apple"),
        ("Türkiye".encode("latin-1"), "T\ufffdrkiye"),
        (b"a\x00b", "a\x00b"),
        (b"\xed\xa0\x80", "\ufffd" * 3),
        (b" \t\n", ""),
        (b"", ""),
        (b"<b>{x}</b> $(rm)", "<b>{x}</b> $(rm)"),
    ],
    ids=["utf-8", "byte-order-mark", "latin-1", "nul", "lone-surrogate", "white-space", "empty", "markup"],
)
def test_captions_survive_any_bytes(data, caption):
    assert decode_caption(data) == caption
