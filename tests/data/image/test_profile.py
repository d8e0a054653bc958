from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from colour_profiles import LINEAR, LINEAR_GREY, ONLY_BLACK_INK, SRGB, WIDE, encoded, to_space
from PIL import Image, ImageCms

from diffusion_train.data.image.decode import decode_image
from diffusion_train.data.image.profile import profile_use
from diffusion_train.data.image.read_header import image_header

BEST = {"quality": 100, "subsampling": 0}
SMOOTH = Image.fromarray(np.random.default_rng(1).integers(0, 256, (6, 6, 3), dtype=np.uint8)).resize((48, 32))
KINDS = [("PNG", {}), ("JPEG", BEST), ("WEBP", {"lossless": True})]


def _levels(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(int)


def _srgb(linear: np.ndarray) -> np.ndarray:
    """IEC 61966-2-1: linear light in [0, 1] -> levels."""
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


@pytest.mark.parametrize(("kind", "options"), KINDS, ids=[kind for kind, _ in KINDS])
@pytest.mark.parametrize("icc", [WIDE, LINEAR], ids=["wide", "linear"])
def test_levels_become_srgb_as_a_colour_management_converts_them(kind, options, icc):
    data = encoded(SMOOTH, kind, icc_profile=icc, **options)
    with Image.open(io.BytesIO(data)) as image:
        source = ImageCms.ImageCmsProfile(io.BytesIO(icc))
        expected = ImageCms.profileToProfile(image.convert("RGB"), source, ImageCms.createProfile("sRGB"))
    assert abs(_levels(decode_image(data)) - _levels(expected)).max() <= 2
    assert profile_use(image_header(data)) == "converted"


@pytest.mark.parametrize("tagged", [False, True], ids=["plain", "tagged"])
def test_one_colour_is_the_same_with_and_without_a_profile(tagged):
    green = Image.new("RGB", (16, 16), (20, 150, 90))
    data = encoded(to_space(green, WIDE), icc_profile=WIDE) if tagged else encoded(green)
    assert abs(_levels(decode_image(data)) - [20, 150, 90]).max() <= 2


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_grey_levels_have_their_own_profiles(kind):
    grey = SMOOTH.convert("L")
    data = encoded(grey, kind, icc_profile=LINEAR_GREY, **(BEST if kind == "JPEG" else {}))
    with Image.open(io.BytesIO(data)) as image:
        expected = _srgb(_levels(image)[..., None] / 255)
    assert abs(_levels(decode_image(data)) - expected).max() <= 2


def test_the_levels_of_a_palette_are_converted():
    data = encoded(SMOOTH.quantize(32), icc_profile=LINEAR)
    with Image.open(io.BytesIO(data)) as image:
        expected = _srgb(_levels(image.convert("RGB")) / 255)
    assert abs(_levels(decode_image(data)) - expected).max() <= 2


def test_a_background_is_srgb_already():
    clear = SMOOTH.convert("RGBA")
    clear.putalpha(Image.new("L", SMOOTH.size, 0))
    shown = decode_image(encoded(clear, icc_profile=LINEAR), background=(10, 200, 90))
    assert (_levels(shown) == [10, 200, 90]).all()
    kept = decode_image(encoded(clear, icc_profile=LINEAR), background=None)
    assert (_levels(kept)[..., 3] == 0).all()
    assert (_levels(kept)[..., :3] == _levels(decode_image(encoded(SMOOTH, icc_profile=LINEAR)))).all()


def test_inks_are_converted_by_their_profile():
    inks = np.zeros((16, 16, 4), np.uint8)
    inks[:, :8, 0] = 255  # cyan, which this profile does not print
    inks[8:, :, 3] = 255
    shown = _levels(decode_image(encoded(Image.fromarray(inks, "CMYK"), "JPEG", icc_profile=ONLY_BLACK_INK, **BEST)))
    assert shown[:8].min() >= 253
    assert shown[8:].max() <= 2


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_an_srgb_profile_changes_no_bit(kind):
    plain, tagged = (encoded(SMOOTH, kind, icc_profile=icc) for icc in (None, SRGB))
    assert (_levels(decode_image(plain)) == _levels(decode_image(tagged))).all()
    assert profile_use(image_header(tagged)) == ""


@pytest.mark.parametrize(
    "icc",
    [ONLY_BLACK_INK, LINEAR_GREY, WIDE[:200], b"not a profile", WIDE[:16] + b"Lab " + WIDE[20:]],
    ids=["inks", "grey", "cut", "text", "lab"],
)
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_broken_or_foreign_profile_is_ignored(kind, icc):
    plain, tagged = (encoded(SMOOTH, kind, icc_profile=one) for one in (None, icc))
    assert (_levels(decode_image(plain)) == _levels(decode_image(tagged))).all()
    assert profile_use(image_header(tagged)) == "ignored"


@pytest.mark.parametrize("cut", [slice(0, 0), slice(0, 1), slice(2, None)], ids=["empty", "short", "second-missing"])
def test_a_profile_in_several_parts_must_be_complete(cut):
    parts = [struct.pack("BB", number, 2) + WIDE[start : start + 300] for number, start in ((1, 0), (2, 300))]
    plain = encoded(SMOOTH, "JPEG")

    def with_parts(parts):
        segments = (b"\xff\xe2" + struct.pack(">H", len(part) + 14) + b"ICC_PROFILE\0" + part for part in parts)
        return plain[:2] + b"".join(segments) + plain[2:]

    assert image_header(with_parts(parts[::-1])).profile == WIDE
    assert profile_use(image_header(with_parts([parts[0], parts[1][cut]]))) == "ignored"
