from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusion_train.data.order.order import Draw
from diffusion_train.data.order.resolution import AspectRatios, Resolution, nearest


def test_known_shapes():
    assert AspectRatios(2, 64).shapes(512) == ((384, 640), (448, 576), (512, 512), (576, 448), (640, 384))
    assert len(AspectRatios(4, 64).shapes(1024)) == 17
    assert AspectRatios().shapes(100) == ((100, 100),)


@given(side=st.integers(1, 64), divisor=st.integers(1, 64), max_ratio=st.floats(1.01, 8))
@settings(max_examples=80, deadline=None)
def test_shapes_keep_the_area_and_are_the_largest_that_do(side, divisor, max_ratio):
    size = side * divisor
    shapes = AspectRatios(max_ratio, divisor).shapes(size)
    assert (size, size) in shapes
    assert set(shapes) == {(width, height) for height, width in shapes}
    for height, width in shapes:
        assert height % divisor == width % divisor == 0
        assert max(height, width) <= max_ratio * min(height, width)
        assert height * width <= size**2 < (height + divisor) * width
        assert height * width <= size**2 < (width + divisor) * height


@pytest.mark.parametrize("size", [512, 768, 1024])
def test_area_is_preserved_at_usual_sizes(size):
    assert min(height * width for height, width in AspectRatios(2, 64).shapes(size)) > 0.93 * size**2


@given(width=st.integers(1, 10_000), height=st.integers(1, 10_000))
@settings(max_examples=100, deadline=None)
def test_an_image_goes_where_the_least_of_it_is_cropped_off(width, height):
    shapes = AspectRatios(4, 64).shapes(512)

    def kept(shape):
        ratio = (height / width) / (shape[0] / shape[1])
        return min(ratio, 1 / ratio)

    [number] = nearest(np.array([width]), np.array([height]), shapes)
    assert kept(shapes[number]) == pytest.approx(max(map(kept, shapes)), rel=1e-12)


def test_the_size_follows_the_step():
    resolution = Resolution([(0, 256), (10_000, 512), (20_000, 1024)])
    assert [resolution(step) for step in (0, 9_999, 10_000, 19_999, 20_000, 10**9)] == [256, 256, 512, 512, 1024, 1024]
    assert Resolution(64)(10**9) == 64


@pytest.mark.parametrize("shape", AspectRatios(2, 64).shapes(1024), ids=str)
@pytest.mark.parametrize("size", [512, 768, 1024, 1536])
def test_a_bucket_keeps_its_aspect_ratio_at_every_size(shape, size):
    ratios = AspectRatios(2, 64)
    height, width = ratios.rescaled(shape, size)
    assert (height, width) in ratios.shapes(size)
    assert (height / width) / (shape[0] / shape[1]) == pytest.approx(1, abs=0.35 if size < 1024 else 0.13)
    assert ratios.rescaled(shape, 1024) == shape


def test_draws_are_shaped_by_bucket_and_step():
    resolution = Resolution([(0, 512), (5, 1024)], AspectRatios(2, 64))
    assert resolution.shaped([Draw(0, 7, (768, 1344)), Draw(1, 8, (768, 1344))], 0) == [
        Draw(0, 7, (384, 640)),
        Draw(1, 8, (384, 640)),
    ]
    assert resolution.shaped([Draw(0, 7, (768, 1344))], 5) == [Draw(0, 7, (768, 1344))]
    assert Resolution([(0, 33), (5, 70)]).shaped([Draw(0, 7)], 5) == [Draw(0, 7, (70, 70))]


@pytest.mark.parametrize(
    ("schedule", "ratios", "message"),
    [
        ([], {}, r"data.resolution=\[\]: the first step must be 0"),
        ([(5, 64)], {}, "the first step must be 0"),
        ([(0, 64), (0, 32)], {}, "each step must be larger than the one before"),
        ([(0, 0)], {}, "at least 1 pixel"),
        (100, {"max_ratio": 2}, "100 must be a multiple of data.buckets.divisor=64"),
        (64, {"max_ratio": 0.5}, "data.buckets.max_ratio=0.5"),
        (64, {"divisor": 0}, "divisor=0"),
    ],
)
def test_impossible_sizes_are_refused(schedule, ratios, message):
    with pytest.raises(ValueError, match=message):
        Resolution(schedule, AspectRatios(**ratios))
