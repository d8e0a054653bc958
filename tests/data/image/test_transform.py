from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from diffusion_train.data.image.collate import collate
from diffusion_train.data.image.decode import decode_image
from diffusion_train.data.image.header import ImageError
from diffusion_train.data.image.resize import to_bytes
from diffusion_train.data.image.transform import Downscale, ImageTransform


@pytest.fixture
def image() -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def test_pixels_of_a_batch_span_minus_one_to_one():
    sample = {"x": to_bytes(Image.fromarray(np.array([[[0, 255, 51]]], np.uint8))), "index": 255}
    batch = collate([sample, sample])
    assert batch["x"].flatten(1).tolist() == [pytest.approx([-1, 1, -0.6])] * 2
    assert batch["x"].dtype == torch.float32
    assert batch["index"].tolist() == [255, 255]


def test_an_image_of_the_right_size_is_not_touched(image):
    square = image.crop((0, 0, 32, 32))
    assert torch.equal(ImageTransform(32)(square, 0, 0)["x"], to_bytes(square))


@pytest.mark.parametrize("shape", [(32, 32), (24, 48), (50, 30)])
@pytest.mark.parametrize("crop", ["center", "random", "focal"])
def test_the_view_is_the_resized_image_at_the_crop_that_is_recorded(image, shape, crop):
    transform = ImageTransform(32, flip=True, crop=crop)
    scale = max(shape[0] / 40, shape[1] / 60)
    resized = image.resize((round(60 * scale), round(40 * scale)), Image.Resampling.BICUBIC)
    mirrored = 0
    for sample in range(20):
        tensors = transform(image, 0, sample, shape, focal=(0.3, 0.8))
        top, left = tensors["crop"].tolist()
        part = to_bytes(resized)[:, top : top + shape[0], left : left + shape[1]]
        of_mirror_image = to_bytes(resized).flip(-1)[:, top : top + shape[0], left : left + shape[1]]
        matches = [torch.allclose(tensors["x"].float(), view.float(), atol=1.01) for view in (part, of_mirror_image)]
        assert any(matches)
        mirrored += matches[1]
        assert tensors["original_size"].tolist() == [40, 60]
        assert {name: tensors[name].dtype for name in ("crop", "original_size")} == dict.fromkeys(
            ("crop", "original_size"), torch.int64
        )
    assert 3 < mirrored < 17


@pytest.mark.parametrize(("size", "corner"), [((60, 40), (0, 10)), ((40, 60), (10, 0)), ((40, 40), (0, 0))])
def test_the_middle_is_kept(size, corner):
    wide = Image.new("RGB", size, "red")
    wide.paste((0, 0, 255), ((size[0] - 40) // 2, (size[1] - 40) // 2, (size[0] + 40) // 2, (size[1] + 40) // 2))
    tensors = ImageTransform(40)(wide, 0, 0)
    assert tensors["crop"].tolist() == list(corner)
    assert torch.equal(tensors["x"], to_bytes(Image.new("RGB", (40, 40), "blue")))


def test_sizes_before_a_jpeg_was_reduced_are_recorded(photo):
    out = io.BytesIO()
    photo.resize((401, 223)).save(out, "jpeg")
    transform = ImageTransform(32, crop="random")
    for sample in range(5):
        whole, reduced = (
            transform(decode_image(out.getvalue(), at_least=side), 0, sample) for side in ((0, 0), (32, 32))
        )
        assert whole["original_size"].tolist() == [223, 401] == reduced["original_size"].tolist()
        assert torch.equal(whole["crop"], reduced["crop"])
        assert (whole["x"].float() - reduced["x"].float()).abs().mean() <= 2


@pytest.mark.parametrize("size", [(5, 9), (1, 1), (1, 5000), (5000, 1)], ids=str)
def test_images_of_any_size_give_the_shape_asked_for(size):
    tensors = ImageTransform(32)(Image.new("RGB", size, "red"), 0, 0, (48, 32))
    assert torch.equal(tensors["x"], to_bytes(Image.new("RGB", (32, 48), "red")))


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


def test_what_may_not_be_flipped_never_is(image):
    guarded = ImageTransform(40, flip=True)
    plain = ImageTransform(40)(image, 0, 0)["x"]
    assert all(torch.equal(guarded(image, 0, sample, flipped=False)["x"], plain) for sample in range(20))


def test_random_crops_reach_every_place_and_are_keyed():
    def lefts(seed, epoch, size=(43, 40)):
        transform = ImageTransform(40, seed=seed, crop="random")
        blank = Image.new("RGB", size)
        return [tuple(transform(blank, epoch, sample)["crop"].tolist()) for sample in range(80)]

    assert set(lefts(0, 0)) == {(0, left) for left in range(4)}
    assert set(lefts(0, 0, (40, 43))) == {(top, 0) for top in range(4)}
    assert lefts(0, 0) == lefts(0, 0)
    assert lefts(0, 0) != lefts(0, 1)
    assert lefts(0, 0) != lefts(1, 0)


@pytest.mark.parametrize(
    ("focal", "left"),
    [((0.5, 0.5), 20), ((0, 0), 0), ((1, 1), 40), ((0.4, 0), 12), ((-3, 9), 0), ((7, 0), 40), (None, 20)],
)
def test_the_focal_point_is_in_the_middle_where_there_is_room(focal, left):
    wide = Image.new("RGB", (80, 40))
    assert ImageTransform(40, crop="focal")(wide, 0, 0, focal=focal)["crop"].tolist() == [0, left]


@pytest.mark.parametrize("focal", [(float("nan"), 0.5), (0.5, float("inf")), (1e308, 0), (0.5,)], ids=str)
def test_a_focal_point_that_is_none_is_a_fault_of_the_sample(focal):
    with pytest.raises(ImageError, match="focal point"):
        ImageTransform(40, crop="focal")(Image.new("RGB", (80, 40)), 0, 0, focal=focal)


def test_aligned_tensors_show_the_same_view(image):
    transform = ImageTransform(32, flip=True, aligned={"same": to_bytes, "low_res": Downscale(8)}, crop="random")
    for sample in range(8):
        tensors = {name: value.float() for name, value in transform(image, 0, sample).items()}
        assert torch.equal(tensors["same"], tensors["x"])
        difference = tensors["low_res"] - tensors["x"].unflatten(1, (8, 4)).unflatten(3, (8, 4)).mean(
            (2, 4)
        ).repeat_interleave(4, 1).repeat_interleave(4, 2)
        mirrored = difference + tensors["low_res"].flip(-1) - tensors["low_res"]
        assert difference.square().mean() < 0.5 * mirrored.square().mean()


def test_further_images_show_the_same_view(photo):
    transform = ImageTransform(64, flip=True, crop="random", nearest=["mask"])
    wide = photo.crop((0, 50, 426, 250))
    others = {
        "copy": wide,
        "smaller": wide.resize((213, 100), Image.Resampling.BICUBIC),
        "mask": wide.point(lambda level: 250 if level > 100 else 3),
    }
    for sample in range(8):
        tensors = transform(wide, 0, sample, (64, 80), others=others)
        assert torch.equal(tensors["copy"], tensors["x"])
        assert (tensors["smaller"].float() - tensors["x"].float()).abs().mean() < 0.06 * 127.5
        assert tensors["mask"].unique().tolist() == [3, 250]
        assert ((tensors["mask"] > 127) == (tensors["x"] > 100)).float().mean() > 0.9


def test_a_further_image_of_another_view_is_a_fault_of_the_sample(image):
    with pytest.raises(ImageError, match="edge must have the aspect ratio of the image, 60 x 40 pixels, got 40 x 40"):
        ImageTransform(32)(image, 0, 0, others={"edge": Image.new("RGB", (40, 40))})


def test_downscaling_keeps_the_shape_and_drops_detail(image):
    square = image.crop((0, 0, 32, 32))
    assert Downscale(16)(square).shape == (3, 32, 32)
    assert Downscale(16)(square).float().std() < to_bytes(square).float().std()


def test_without_augmentation_nothing_is_flipped_or_moved(image):
    transform = ImageTransform(32, flip=True, crop="random", nearest=["mask"]).without_augmentation()
    first = transform(image, 0, 0)["x"]
    assert all(torch.equal(transform(image, epoch, 0)["x"], first) for epoch in range(12))
    assert transform.nearest == ("mask",)
    assert ImageTransform(32, crop="focal").without_augmentation().crop == "focal"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": 0}, "data.image_size=0"),
        ({"image_size": 8, "background": (0, 300, 0)}, "data.background"),
        ({"image_size": 8, "crop": "middle"}, "data.crop=middle: must be one of center, random, focal"),
    ],
    ids=["size", "background", "crop"],
)
def test_impossible_settings_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ImageTransform(**options)
