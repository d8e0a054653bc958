from __future__ import annotations

import numpy as np
import pytest

from diffusion_train.data.aspect import AREA_TOLERANCE, bucket_shapes, fit, within

_SETTINGS = [(1024, 64, 4), (1024, 64, 1.5), (512, 64, 2), (256, 16, 3), (96, 16, 2.5), (32, 8, 2), (64, 64, 4)]


@pytest.mark.parametrize(("image_size", "step", "max_aspect"), _SETTINGS)
def test_shapes_keep_the_area_and_come_with_their_mirror_images(image_size, step, max_aspect):
    shapes = bucket_shapes(image_size, step, max_aspect)
    assert (image_size, image_size) in shapes
    assert len(set(shapes)) == len(shapes)
    assert shapes == [(width, height) for height, width in reversed(shapes)]
    for height, width in shapes:
        assert height % step == width % step == 0
        assert max(height, width) <= max_aspect * min(height, width)
        assert abs(height * width / image_size**2 - 1) <= AREA_TOLERANCE


def test_the_shapes_of_sdxl_are_among_them():
    """Podell et al. 2023, appendix I; those within the tolerance."""
    known = {(1024, 1024), (1088, 960), (1152, 896), (1216, 832), (1344, 768), (1472, 704), (1536, 704), (1600, 640)}
    known |= {(1664, 640), (1792, 576), (1856, 576), (2048, 512)}
    assert known <= set(bucket_shapes(1024, 64, 4))


@pytest.mark.parametrize("settings", _SETTINGS, ids=str)
def test_no_other_shape_would_lose_less_of_an_image(settings):
    shapes = bucket_shapes(*settings)
    widths = np.arange(1, 6000)
    kept = np.array([_kept(widths, 1000, shape) for shape in shapes])
    chosen = fit((widths, np.full_like(widths, 1000)), shapes)
    assert (kept[chosen, np.arange(len(widths))] >= kept.max(0) - 1e-12).all()


def test_fit_is_one_choice_for_each_image_whatever_the_order_of_the_shapes():
    sizes = np.random.default_rng(0).integers(1, 3000, (2, 10_000))
    shapes = bucket_shapes(512, 32, 3)
    chosen = fit((sizes[0], sizes[1]), shapes)
    assert chosen.shape == (10_000,)
    turned = shapes[::-1]
    assert [turned[place] for place in fit((sizes[0], sizes[1]), turned)] == [shapes[place] for place in chosen]
    assert chosen[:50].tolist() == [int(fit((width, height), shapes)) for width, height in sizes.T[:50]]


def test_an_image_of_a_shape_is_fitted_to_it():
    shapes = bucket_shapes(1024, 64, 4)
    heights, widths = np.array(shapes).T
    assert fit((widths, heights), shapes).tolist() == list(range(len(shapes)))


def test_one_shape_fits_all():
    assert fit(([1, 5000], [5000, 1]), [(32, 32)]).tolist() == [0, 0]


def test_images_of_long_aspect_are_told_apart():
    widths, heights = [1, 5000, 200, 100, 201], [5000, 1, 100, 200, 100]
    assert within((widths, heights), 2).tolist() == [False, False, True, True, False]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((100, 64, 2), "data.image_size=100"), ((32, 64, 2), "step of the shapes, 64"), ((64, 64, 0.5), "max_aspect=0.5")],
)
def test_impossible_shapes_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        bucket_shapes(*arguments)


def _kept(width: np.ndarray, height: int, shape: tuple[int, int]) -> np.ndarray:
    """The share of an image that is left of it."""
    scale = np.maximum(shape[0] / height, shape[1] / width)
    return shape[0] * shape[1] / (height * width * scale**2)
