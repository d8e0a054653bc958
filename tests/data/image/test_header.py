from __future__ import annotations

import io
import struct
import time
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from diffusion_train.data.image.decode import decode_image
from diffusion_train.data.image.header import MAX_BYTES, ImageError
from diffusion_train.data.image.read_header import image_header, image_size


def test_the_header_tells_the_size_that_decoding_gives(picture):
    assert image_size(picture.data) == decode_image(picture.data).size


def test_the_header_tells_what_may_be_transparent(picture):
    seen = [np.asarray(decode_image(picture.data, background)) for background in ((0, 0, 0), (255, 255, 255))]
    if (seen[0] != seen[1]).any():
        assert image_header(picture.data).alpha


def test_opaque_images_are_not_called_transparent(pictures):
    opaque = [name for name, picture in pictures.items() if not image_header(picture.data).alpha]
    assert {"jpeg", "png", "png-palette", "webp", "webp-lossless", "webp-animated", "gif", "apng"} <= set(opaque)


def test_animations_are_known_from_the_header(pictures):
    animated = {name for name, picture in pictures.items() if image_header(picture.data).animated}
    assert animated == {"apng", "gif-animated", "webp-animated", "webp-animated-first-frame-in-part"}


@pytest.mark.parametrize(
    ("name", "kind", "mode", "bits"),
    [
        ("jpeg", "JPEG", "RGB", 8),
        ("jpeg-grey", "JPEG", "L", 8),
        ("jpeg-ycck", "JPEG", "CMYK", 8),
        ("png-grey-4-bit", "PNG", "L", 4),
        ("png-16-bit", "PNG", "RGB", 16),
        ("png-palette", "PNG", "P", 8),
        ("png-grey-alpha", "PNG", "LA", 8),
        ("webp", "WEBP", "RGB", 8),
        ("webp-alpha", "WEBP", "RGBA", 8),
        ("gif", "GIF", "P", 8),
    ],
)
def test_kind_mode_and_depth(pictures, name, kind, mode, bits):
    header = image_header(pictures[name].data)
    assert (header.format, header.mode, header.bits) == (kind, mode, bits)


def test_orientation_is_reported_where_it_matters(pictures):
    for orientation in range(1, 9):
        header = image_header(pictures[f"exif-{orientation}-png"].data)
        assert header.orientation == orientation
        assert header.rotated == (orientation > 1)
        assert header.stored_size == (24, 16)


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_an_orientation_that_means_nothing_is_none(pictures, value):
    data = pictures["exif-6-jpeg"].data
    entry = struct.pack("<HHI", 0x0112, 3, 1)
    assert image_header(data).orientation == 6
    damaged = data.replace(entry + struct.pack("<H", 6), entry + struct.pack("<H", value))
    assert image_header(damaged).orientation == 1


def test_an_orientation_is_applied_wherever_pillow_applies_it(picture):
    with Image.open(io.BytesIO(picture.data)) as image:
        assert image_header(picture.data).orientation == image.getexif().get(0x0112, 1)


def _with_chunk(png, name, body):
    chunk = struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
    return png[:33] + chunk + png[33:]


@pytest.mark.parametrize("text", [b"\nexif\n 3\nzz", b"", b"\0" * 9, b"\nexif\n    2\nabc"])
@pytest.mark.parametrize("chunk", [b"tEXt", b"zTXt", b"iTXt"])
def test_a_damaged_text_is_ignored(pictures, chunk, text):
    data = pictures["png"].data
    damaged = _with_chunk(data, chunk, b"Raw profile type exif\0" + text)
    assert image_header(damaged).orientation == 1


def test_a_text_that_is_a_zip_bomb_is_ignored(pictures):
    data = pictures["png"].data
    bomb = _with_chunk(data, b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(bytes(1 << 28)))
    start = time.perf_counter()
    assert image_header(bomb).orientation == 1
    assert time.perf_counter() - start < 0.5


def test_too_many_bytes_are_refused():
    with pytest.raises(ImageError, match=r"must have at most .* bytes, got"):
        image_header(bytes(MAX_BYTES + 1))


@pytest.mark.parametrize("data", [b"", b"<html>", b"II*\0" + bytes(64)], ids=["empty", "text", "tiff"])
def test_what_is_no_image_of_a_listed_format_is_refused(data):
    with pytest.raises(ImageError, match=r"empty|starts with"):
        image_header(data)


_STARTS = [b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF\0\0\0\0WEBPVP8X", b"RIFF\0\0\0\0WEBPVP8L", b"GIF89a"]


@given(st.sampled_from(_STARTS), st.binary(max_size=200))
@settings(max_examples=1000, deadline=None)
def test_any_bytes_give_a_header_or_an_image_error(start, rest):
    try:
        header = image_header(start + rest)
    except ImageError:
        return
    assert header.width > 0
    assert header.height > 0
