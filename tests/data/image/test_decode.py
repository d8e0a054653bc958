from __future__ import annotations

import io
import resource
import struct
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from diffusion_train.data.image.decode import decode_image, stored
from diffusion_train.data.image.header import ImageError
from diffusion_train.data.image.read_header import image_size


def _encode(image: Image.Image, kind: str = "jpeg", **options) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def _pixels(image: Image.Image) -> np.ndarray:
    assert image.mode == "RGB"
    return np.asarray(image).astype(int)


def test_an_image_of_any_kind_shows_what_it_must(picture, background):
    """CMYK, grey, palette, 1 to 16 bits, transparency, animations, EXIF orientation."""
    shown = _pixels(decode_image(picture.data, background))
    assert shown.shape == picture.shows.shape
    assert abs(shown - picture.shows).max() <= picture.tolerance
    assert abs(shown - picture.shows).mean() <= 2


def test_orientation_is_applied_once(picture):
    image = decode_image(picture.data)
    again = decode_image(_encode(image, "png", exif=image.getexif()))
    assert (_pixels(again) == _pixels(image)).all()


def test_a_cut_image_is_refused_or_whole(picture):
    whole = _pixels(decode_image(picture.data))
    for length in range(0, len(picture.data), 7):
        try:
            cut = decode_image(picture.data[:length])
        except ImageError:
            continue
        assert (_pixels(cut) == whole).all()


@pytest.mark.parametrize("side", [426, 100])
def test_a_cut_photograph_is_refused(photo, side):
    data = _encode(photo.resize((side, side)), quality=90)
    for length in range(100, len(data), len(data) // 50):
        with pytest.raises(ImageError):
            decode_image(data[:length])
        with pytest.raises(ImageError):  # as a download leaves it that made room for the whole at first
            decode_image(data[:length].ljust(len(data), b"\0"))


def test_bytes_flipped_in_the_scan_give_a_picture_or_an_error(photo):
    """Where libjpeg notices nothing only the checksum of the index does."""
    data = bytearray(_encode(photo, quality=90))
    outcomes = set()
    for place in range(1000, len(data) - 10, 997):
        damaged = data.copy()
        damaged[place] ^= 0x55
        try:
            outcomes.add(decode_image(bytes(damaged)).size == photo.size)
        except ImageError:
            outcomes.add("refused")
    assert outcomes <= {True, "refused"}


@pytest.mark.parametrize("name", ["gif-animated", "webp-animated", "apng"])
def test_an_animation_can_be_refused(pictures, name):
    with pytest.raises(ImageError, match=r"data\.animated=refuse"):
        decode_image(pictures[name].data, animated="refuse")


def test_no_still_image_is_refused_as_an_animation(pictures):
    for name in ("gif", "webp", "png", "jpeg", "jpeg-of-several-pictures"):
        decode_image(pictures[name].data, animated="refuse")


def test_colour_profiles_are_not_applied(pictures):
    """sRGB is assumed."""
    plain = Image.fromarray(pictures["png"].shows.astype(np.uint8))
    tagged = decode_image(_encode(plain, "png", icc_profile=b"x" * 200))
    assert (_pixels(tagged) == pictures["png"].shows).all()
    assert "icc_profile" not in tagged.info


def _webp_bomb() -> bytes:
    size = (11_999).to_bytes(3, "little")
    body = b"WEBPVP8X" + struct.pack("<I", 10) + bytes(4) + size + size
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _gif_bomb() -> bytes:
    """The screen is small, its frame is not."""
    return (
        b"GIF89a"
        + struct.pack("<HHBBB", 9, 9, 0, 0, 0)
        + b","
        + struct.pack("<HHHHB", 0, 0, 12_000, 12_000, 0)
        + b"\2\0;"
    )


def _jpeg_bomb() -> bytes:
    frame = struct.pack(">HBHHBBBB", 11, 8, 12_000, 12_000, 1, 1, 0x11, 0)
    scan = struct.pack(">HBBBBBB", 8, 1, 1, 0, 0, 63, 0)
    return b"\xff\xd8\xff\xc0" + frame + b"\xff\xda" + scan


@pytest.mark.parametrize("bomb", [_webp_bomb, _gif_bomb, _jpeg_bomb], ids=["webp", "gif", "jpeg"])
def test_a_bomb_is_refused_from_its_header(bomb):
    data = bomb()
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(ImageError, match="12000 x 12000 pixels"):
        decode_image(data)
    assert time.process_time() - start < 0.05
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kB


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_damaged_files_give_an_image_of_their_headers_size_or_an_image_error(pictures, data):
    content = bytearray(data.draw(st.sampled_from(sorted(pictures)).map(lambda name: pictures[name].data)))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content) - 1))
        length = data.draw(st.integers(0, 8))
        content[place : place + length] = data.draw(st.binary(max_size=8))
    try:
        image = decode_image(bytes(content), at_least=(4, 4))
    except ImageError:
        return
    assert image.mode == "RGB"
    assert image.size == image_size(bytes(content))


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("size", [(400, 320), (401, 323)], ids=["even", "odd"])
def test_a_large_jpeg_is_reduced_while_it_covers_what_is_asked_for(photo, mode, size):
    image = photo.resize(size, Image.Resampling.BICUBIC)
    data = _encode(image.convert(mode), quality=95)
    small = decode_image(data, at_least=(32, 50))
    assert small.size == tuple(-(-side // 4) for side in size)
    assert stored(small)[:2] == (size[1], size[0])
    assert stored(small).box == (0, 0, size[0] / 4, size[1] / 4)
    assert decode_image(data).size == size
    assert decode_image(data, at_least=(250, 20)).size == size


def test_both_decoders_of_jpeg_agree(photo):
    """simplejpeg's and Pillow's, whole and reduced."""
    data = _encode(photo.resize((401, 323)), quality=90)
    for factor, at_least in {1: (0, 0), 2: (100, 100), 4: (40, 40), 8: (16, 16)}.items():
        with Image.open(io.BytesIO(data)) as image:
            image.draft(None, (401 // factor, 323 // factor))
            ours = decode_image(data, at_least=at_least)
            assert abs(_pixels(ours) - _pixels(image)).mean() <= 2
            assert ours.size == image.size


def test_a_changed_image_is_taken_for_what_it_is(photo):
    small = decode_image(_encode(photo), at_least=(32, 32))
    assert stored(small).width == 426
    assert stored(small.resize((20, 10))) == (10, 20, (0, 0, 20, 10))
    assert stored(photo) == (426, 426, (0, 0, 426, 426))
