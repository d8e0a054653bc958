from __future__ import annotations

import io

import numpy as np
import pillow_heif
import pytest
from colour_profiles import ONLY_BLACK_INK, WIDE
from PIL import Image

from diffusion_train.data.image.decode import decode_image
from diffusion_train.data.image.header import ImageError
from diffusion_train.prepare.image.formats import converted_format
from diffusion_train.prepare.image.pillow_formats import decode_pillow, pillow_header

FORMATS = {"HEIF": 4.0, "AVIF": 4.0, "TIFF": 0.0, "BMP": 0.0}  # and by how many levels they may differ on average


def smooth(width=60, height=40, mode="RGB") -> Image.Image:
    small = Image.fromarray(np.random.default_rng(0).integers(0, 256, (3, 4, 3), dtype=np.uint8))
    return small.resize((width, height), Image.Resampling.BICUBIC).convert(mode)


def saved(image: Image.Image, kind: str, **settings) -> bytes:
    out = io.BytesIO()
    if kind == "HEIF":
        pillow_heif.from_pillow(image).save(out, quality=95, **settings)
    else:
        image.save(out, kind, **({"quality": 95} if kind == "AVIF" else {}), **settings)
    return out.getvalue()


def decoded(data: bytes) -> Image.Image:
    kind = converted_format(data)
    assert kind
    header = pillow_header(data, kind)
    image = decode_pillow(data, header)
    assert image.size == (header.width, header.height)
    return image


def difference(one: Image.Image, other: Image.Image) -> float:
    return float(np.abs(np.asarray(one).astype(int) - np.asarray(other)).mean())


@pytest.mark.parametrize("kind", FORMATS)
def test_pixels_are_those_of_the_image(kind):
    image = smooth()
    found = decoded(saved(image, kind))
    assert found.mode == "RGB"
    assert difference(found, image) <= FORMATS[kind]


@pytest.mark.parametrize("kind", ["HEIF", "AVIF", "TIFF"])
def test_transparent_parts_stay_so(kind):
    image = smooth()
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    found = decoded(saved(image, kind))
    assert found.mode == "RGBA"
    assert difference(found.getchannel("A"), image.getchannel("A")) <= 1


@pytest.mark.parametrize("kind", ["HEIF", "AVIF", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_turned_upright_once(kind, orientation):
    image, exif = smooth(), Image.Exif()
    exif[0x0112] = orientation
    expected = decode_image(saved(image, "PNG", exif=exif))
    data = saved(image, kind, exif=exif.tobytes() if kind == "HEIF" else exif)
    assert kind != "HEIF" or (b"irot" in data or b"imir" in data) is (orientation > 1)
    found = decoded(data)
    assert found.size == expected.size
    assert difference(found, expected) <= max(FORMATS[kind], 1)


@pytest.mark.parametrize("kind", ["HEIF", "AVIF", "TIFF"])
def test_a_colour_profile_is_converted_to_srgb(kind):
    image = Image.new("RGB", (40, 40), (20, 150, 90))
    found = decoded(saved(image, kind, icc_profile=WIDE))
    assert difference(found, decode_image(saved(image, "PNG", icc_profile=WIDE))) <= 3
    assert "icc_profile" not in found.info or found.info["icc_profile"] != WIDE


@pytest.mark.parametrize("icc", [None, ONLY_BLACK_INK])
def test_inks_of_a_tiff_become_rgb(icc):
    image = Image.new("CMYK", (8, 8), (200, 80, 9, 30))
    found = decoded(saved(image, "TIFF", **({"icc_profile": icc} if icc else {})))
    if icc is None:
        assert difference(found, image.convert("RGB")) == 0
    else:
        assert difference(found, image.convert("RGB")) > 5


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "I;16"])
def test_other_pixels_of_a_tiff(mode):
    if mode == "I;16":
        levels = (np.arange(256, dtype=np.uint16) * 257).reshape(16, 16)
        image, expected = Image.fromarray(levels), Image.fromarray((levels // 257).astype(np.uint8))
    else:
        image = expected = smooth(mode="L" if mode == "LA" else mode).convert(mode)
    found = decoded(saved(image, "TIFF"))
    assert difference(found, expected.convert(found.mode)) <= 1


@pytest.mark.parametrize("mode", ["F", "I", "LAB"])
def test_pixels_without_a_scale_are_refused_by_name(mode):
    with pytest.raises(ImageError, match=f"TIFF with pixels of mode {mode}"):
        pillow_header(saved(Image.new(mode, (4, 4)), "TIFF"), "TIFF")


def test_only_the_first_page_of_a_tiff_is_used():
    data = saved(smooth(), "TIFF", save_all=True, append_images=[Image.new("RGB", (60, 40))])
    assert pillow_header(data, "TIFF").animated
    assert difference(decoded(data), smooth()) == 0


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("share", [0.02, 0.2, 0.5, 0.9])
def test_a_cut_file_is_an_image_error(kind, share):
    data = saved(smooth(), kind)
    with pytest.raises(ImageError):
        decode_pillow(data[: int(len(data) * share)], pillow_header(data[: int(len(data) * share)], kind))


def deep_heif(**settings) -> bytes:
    out = io.BytesIO()
    levels = np.full((32, 32, 3), 40_000, np.uint16)
    pillow_heif.from_bytes("RGB;16", (32, 32), levels.tobytes()).save(out, quality=95, **settings)
    return out.getvalue()


def test_deep_heif_is_converted_to_eight_bits():
    assert abs(np.asarray(decoded(deep_heif())).mean() - 40_000 / 257) < 3


@pytest.mark.parametrize("transfer", [16, 18])
def test_levels_of_hdr_are_refused(transfer):
    with pytest.raises(ImageError, match="export it in SDR"):
        decoded(deep_heif(transfer_characteristics=transfer))
