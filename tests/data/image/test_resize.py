from __future__ import annotations

import io
import resource

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from diffusion_train.data.image.decode import decode_image, stored
from diffusion_train.data.image.resize import covering, resize_and_crop, to_bytes

_SIDES = st.integers(1, 5000)


@settings(deadline=None)
@given(_SIDES, _SIDES, st.tuples(st.integers(1, 600), st.integers(1, 600)))
def test_the_resized_image_covers_the_shape_and_no_more(height, width, shape):
    size = covering(height, width, shape)
    assert size[0] >= shape[0]
    assert size[1] >= shape[1]
    assert size[0] == shape[0] or size[1] == shape[1]
    scale = max(shape[0] / height, shape[1] / width)
    assert size[0] == pytest.approx(height * scale, abs=0.5 + 1e-6)
    assert size[1] == pytest.approx(width * scale, abs=0.5 + 1e-6)


@pytest.mark.parametrize(
    ("shape", "size"),
    [((40, 64), (64, 64)), ((64, 64), (64, 95)), ((16, 60), (96, 97)), ((500, 430), (501, 502)), ((7, 9), (900, 9))],
    ids=["shrunk", "wide", "much-to-spare", "enlarged", "long"],
)
def test_a_view_is_a_part_of_the_resized_image(photo, shape, size):
    whole = photo.resize((size[1], size[0]), Image.Resampling.BICUBIC)
    for corner in ((0, 0), (size[0] - shape[0], size[1] - shape[1]), ((size[0] - shape[0]) // 3, 0)):
        expected = to_bytes(whole)[:, corner[0] : corner[0] + shape[0], corner[1] : corner[1] + shape[1]]
        difference = resize_and_crop(photo, size, corner, shape).int() - expected.int()
        assert difference.abs().max() <= 2
        assert difference.abs().float().mean() < 0.02


def test_shrinking_is_antialiased():
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    out = resize_and_crop(Image.fromarray(stripes), (16, 16), (0, 0), (16, 16))
    assert (out[:, :, 2:-2].int() - 127).abs().max() <= 3


def test_a_long_thin_image_is_never_resized_whole():
    image = Image.new("RGB", (5000, 1), "red")
    size = covering(1, 5000, (256, 256))
    assert size == (256, 1_280_000)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert resize_and_crop(image, size, (0, 600_000), (256, 256)).unique().tolist() == [0, 255]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kB


def test_masks_keep_their_levels(photo):
    mask = photo.point(lambda level: 250 if level > 100 else 3)
    levels = resize_and_crop(mask, (90, 90), (5, 7), (64, 64), nearest=True)
    assert levels.unique().tolist() == [3, 250]
    mixed = resize_and_crop(mask, (90, 90), (5, 7), (64, 64))
    assert ((levels > 126) == (mixed > 126)).float().mean() > 0.9


def _jpeg(image: Image.Image, orientation: int) -> bytes:
    out = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(out, "jpeg", quality=92, exif=exif)
    return out.getvalue()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", [(384, 256), (281, 203), (415, 329)])
def test_a_reduced_jpeg_gives_the_same_view_as_the_whole_one(photo, size, orientation):
    """Also where the reduced one ends inside its last pixels, wherever these come to lie."""
    data = _jpeg(photo.resize(size, Image.Resampling.LANCZOS), orientation)
    shape = (60, 50)
    whole, reduced = decode_image(data), decode_image(data, at_least=shape)
    assert reduced.size < whole.size
    assert stored(reduced)[:2] == stored(whole)[:2]
    covers = covering(whole.height, whole.width, shape)
    corner = (covers[0] - shape[0], covers[1] - shape[1])
    views = [resize_and_crop(image, covers, corner, shape).float() for image in (whole, reduced)]
    difference = (views[0] - views[1]).abs().mean()
    assert difference <= 2
    shifted = (views[0][:, 1:] - views[1][:, :-1]).abs().mean(), (views[0][..., 1:] - views[1][..., :-1]).abs().mean()
    assert difference < 0.5 * min(shifted)


def test_no_size_of_a_jpeg_gives_a_pixel_too_few(photo):
    """Of the sizes that end inside the last pixels of a reduced image: rounding once made 63 columns of 428 x 434."""
    for width in range(300, 500):
        image = decode_image(_jpeg(photo.resize((width, width + 6), Image.Resampling.NEAREST), 1), at_least=(64, 64))
        resized = resize_and_crop(image, covering(width + 6, width, (64, 64)), (0, 0), (64, 64))
        assert resized.shape == (3, 64, 64), width


def test_an_image_of_the_right_size_is_not_touched(photo):
    assert torch.equal(resize_and_crop(photo, (426, 426), (10, 20), (300, 400)), to_bytes(photo)[:, 10:310, 20:420])
