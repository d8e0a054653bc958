from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from diffusion_train.data.transform import Downscale, ImageTransform, centre_square, to_tensor


@pytest.fixture
def image(make_png):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def test_pixels_span_minus_one_to_one():
    levels = to_tensor(Image.fromarray(np.array([[[0, 255, 51]]], np.uint8)))
    assert levels.flatten().tolist() == pytest.approx([-1, 1, -0.6])
    assert levels.dtype == torch.float32


def test_an_image_of_the_right_size_is_not_touched(image):
    square = image.crop((0, 0, 32, 32))
    assert torch.equal(ImageTransform(32)(square, 0, 0)["x"], to_tensor(square))


@pytest.mark.parametrize("size", [(60, 40), (40, 60)], ids=["wide", "tall"])
def test_the_centre_square_is_kept(size):
    wide = Image.new("RGB", size, "red")
    wide.paste((0, 0, 255), ((size[0] - 40) // 2, (size[1] - 40) // 2, (size[0] + 40) // 2, (size[1] + 40) // 2))
    assert set(centre_square(wide, 16).get_flattened_data()) == {(0, 0, 255)}


def test_shrinking_is_antialiased():
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    out = np.asarray(centre_square(Image.fromarray(stripes), 16))
    assert abs(out[:, 2:-2].astype(int) - 127).max() <= 3


def test_small_images_are_enlarged():
    assert ImageTransform(32)(Image.new("RGB", (5, 9), "red"), 0, 0)["x"].shape == (3, 32, 32)


def test_flips_are_keyed_by_seed_epoch_and_sample(image):
    def flipped(seed, epoch, sample):
        out = ImageTransform(40, flip=True, seed=seed)(image, epoch, sample)["x"]
        plain = ImageTransform(40)(image, epoch, sample)["x"]
        assert torch.equal(out, plain) or torch.equal(out, plain.flip(-1))
        return torch.equal(out, plain.flip(-1))

    base = [flipped(0, 0, sample) for sample in range(60)]
    assert 15 < sum(base) < 45
    assert base == [flipped(0, 0, sample) for sample in range(60)]
    assert base != [flipped(1, 0, sample) for sample in range(60)]
    assert base != [flipped(0, 1, sample) for sample in range(60)]


def test_aligned_tensors_show_the_same_view(image):
    transform = ImageTransform(32, flip=True, aligned={"same": to_tensor, "low_res": Downscale(8)})
    for sample in range(8):
        tensors = transform(image, 0, sample)
        assert torch.equal(tensors["same"], tensors["x"])
        difference = tensors["low_res"] - tensors["x"].unflatten(1, (8, 4)).unflatten(3, (8, 4)).mean(
            (2, 4)
        ).repeat_interleave(4, 1).repeat_interleave(4, 2)
        mirrored = difference + tensors["low_res"].flip(-1) - tensors["low_res"]
        assert difference.square().mean() < 0.5 * mirrored.square().mean()


def test_downscaling_keeps_the_shape_and_drops_detail(image):
    view = centre_square(image, 32)
    assert Downscale(16)(view).shape == (3, 32, 32)
    assert Downscale(16)(view).std() < to_tensor(view).std()


def test_without_augmentation_nothing_is_flipped(image):
    transform = ImageTransform(32, flip=True).without_augmentation()
    first = transform(image, 0, 0)["x"]
    assert all(torch.equal(transform(image, epoch, 0)["x"], first) for epoch in range(12))


@pytest.mark.parametrize(
    ("options", "message"),
    [({"image_size": 0}, "data.image_size=0"), ({"image_size": 8, "background": (0, 300, 0)}, "data.background")],
    ids=["size", "background"],
)
def test_impossible_settings_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ImageTransform(**options)
