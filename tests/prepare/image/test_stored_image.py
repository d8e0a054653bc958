from __future__ import annotations

import io
import resource
import struct
import time
from functools import cache

import numpy as np
import pillow_heif
import pytest
from PIL import Image

from diffusion_train.data.image.decode import decode_image
from diffusion_train.data.image.header import ImageError, TooManyPixels
from diffusion_train.data.image.read_header import image_header
from diffusion_train.prepare.image.formats import converted_format, most_bytes
from diffusion_train.prepare.image.stored_image import source_header, stored_image


def saved(image, kind, **settings) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **settings)
    return out.getvalue()


def heic(image) -> bytes:
    out = io.BytesIO()
    pillow_heif.from_pillow(image).save(out)
    return out.getvalue()


def stored(data: bytes, max_side: int | None = None) -> bytes:
    return stored_image(data, source_header(data, svg_side=64), max_side)


RGB, RGBA = Image.new("RGB", (60, 40), (9, 99, 199)), Image.new("RGBA", (60, 40), (9, 99, 199, 128))
SVG = b'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 3 2"><circle r="1"/></svg>'


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (heic(RGB), "JPEG"),
        (heic(RGBA), "PNG"),
        (saved(RGB, "AVIF"), "JPEG"),
        (saved(RGB, "TIFF"), "PNG"),
        (saved(RGB, "BMP"), "PNG"),
        (SVG, "PNG"),
    ],
    ids=["heic", "transparent-heic", "avif", "tiff", "bmp", "svg"],
)
def test_other_formats_are_stored_as_jpeg_or_png(data, kind):
    header = image_header(stored(data))
    assert header.format == kind
    small = image_header(stored(data, max_side=30))
    assert (small.format, small.width, small.height) == (kind, 30, 20)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF"])
def test_formats_of_shards_stay_byte_for_byte(kind):
    data = saved(RGB, kind)
    assert stored(data) is data
    assert stored(data, max_side=60) is data


def test_bytes_of_no_image_have_no_format():
    assert [converted_format(data) for data in (b"", b"BM"[:1], b"<html>", b"\0\0\0\x18ftypisom")] == [None] * 4


def _ramp(mode: str, side: int, **settings) -> bytes:
    ramp = Image.linear_gradient("L").resize((side, side))
    return saved(Image.merge(mode, [ramp] * len(mode)), "JPEG", quality=50, **settings)


@pytest.mark.parametrize(
    ("mode", "settings"),
    [("RGB", {}), ("RGB", {"progressive": True}), ("CMYK", {})],
    ids=["baseline", "progressive", "cmyk"],
)
def test_a_jpeg_above_the_cap_is_reduced_before_it_is_shrunk(mode, settings, monkeypatch):
    for module in ("data.image.decode", "prepare.image.stored_image"):
        monkeypatch.setattr(f"diffusion_train.{module}.MAX_PIXELS", 1 << 19)
    data = _ramp(mode, 900, **settings)
    with pytest.raises(TooManyPixels, match="900 x 900"):
        stored(data)
    small = decode_image(stored(data, max_side=64))
    assert small.size == (64, 64)
    whole = decode_image(_ramp(mode, 64)).convert("L")
    assert np.abs(np.asarray(small.convert("L")).astype(int) - np.asarray(whole)).mean() < 3
    with pytest.raises(TooManyPixels):
        stored(data, max_side=800)


@pytest.mark.slow
def test_a_jpeg_of_9000_x_9000_is_shrunk():
    data = saved(Image.new("RGB", (9000, 9000), "red"), "JPEG")
    with pytest.raises(TooManyPixels, match="9000 x 9000"):
        stored(data)
    assert decode_image(stored(data, max_side=1024)).size == (1024, 1024)


def test_a_jpeg_that_libjpeg_holds_whole_has_a_limit():
    """The coefficients of a progressive JPEG, and of one with a scan for each colour, stay in memory."""
    frame = struct.pack(">HBHHB", 17, 8, 12_000, 12_000, 3) + bytes(9)
    start = b"\xff\xd8\xff"
    whole, one_colour = (b"\xff\xda\0\x0c\3" + bytes(9), b"\xff\xda\0\x08\1" + bytes(5))
    assert not image_header(start + b"\xc0" + frame + whole).buffered
    for data in (start + b"\xc2" + frame + whole, start + b"\xc0" + frame + one_colour):
        assert image_header(data).buffered
        with pytest.raises(TooManyPixels):
            stored(data, max_side=64)


@cache
def _bombs() -> dict[str, bytes]:
    tiff = bytearray(saved(Image.new("1", (8, 8)), "TIFF"))
    bmp = bytearray(saved(Image.new("L", (8, 8)), "BMP"))
    bmp[18:26] = struct.pack("<ii", 12_000, 12_000)
    for tag in (b"\0\1", b"\1\1"):  # width and height, each a LONG in the first directory
        at = tiff.index(tag)
        tiff[at + 2 : at + 12] = struct.pack("<HII", 4, 1, 12_000)
    small = heic(Image.new("RGB", (64, 64)))
    heif = small.replace(
        b"ispe\0\0\0\0" + struct.pack(">II", 64, 64), b"ispe\0\0\0\0" + struct.pack(">II", 12_000, 12_000)
    )
    png = bytearray(saved(Image.new("L", (8, 8)), "PNG"))
    png[16:24] = struct.pack(">II", 12_000, 12_000)
    return {"bmp": bytes(bmp), "tiff": bytes(tiff), "png": bytes(png), "heif": heif}


@pytest.mark.parametrize("name", ["bmp", "tiff", "png", "heif"])
def test_a_bomb_is_refused_before_it_is_decoded(name):
    data = _bombs()[name]
    stored(SVG)  # the libraries are loaded
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(TooManyPixels if name != "heif" else ImageError):
        stored(data, max_side=64)
    assert time.process_time() - start < 0.2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kB


def test_uncompressed_formats_may_have_more_bytes():
    assert most_bytes("TIF") == most_bytes("bmp") == 4 * most_bytes("jpg")
    assert most_bytes("svg") < most_bytes("jpg")


def test_an_image_whose_png_is_too_large_for_a_shard_says_so(monkeypatch):
    monkeypatch.setattr("diffusion_train.prepare.image.stored_image.MAX_BYTES", 50)
    with pytest.raises(ImageError, match=r"set prepare\.max_side"):
        stored(saved(RGB, "BMP"))
