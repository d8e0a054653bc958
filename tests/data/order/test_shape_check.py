from __future__ import annotations

import pytest
import torch
from diffusers import UNet2DConditionModel, UNet2DModel

from diffusion_train.data.order.resolution import AspectRatios, Resolution
from diffusion_train.data.order.shape_check import check_shapes
from diffusion_train.network.diffusers_unet import DiffusersUNet
from diffusion_train.network.dit import DiT
from diffusion_train.network.unet import UNet

SMALL = {
    "unet": lambda: UNet(3, [32, 32, 32], [1, 1, 1], [False] * 3),
    "patches": lambda: UNet(3, [32, 32, 32], [1, 1, 1], [False] * 3, patch_size=2),
    "dit": lambda: DiT(3, 64, 1, patch_size=4),
    "diffusers": lambda: DiffusersUNet(
        UNet2DModel(
            block_out_channels=(32, 32, 32), layers_per_block=1,
            down_block_types=["DownBlock2D"] * 3, up_block_types=["UpBlock2D"] * 3,
        )
    ),
}  # fmt: skip


@pytest.mark.parametrize(("name", "factor"), [("unet", 4), ("patches", 8), ("dit", 4), ("diffusers", 4)])
def test_a_network_takes_what_its_factor_divides_and_nothing_else(name, factor):
    network = SMALL[name]()
    assert network.factor == factor
    time = torch.full((1,), 0.5)
    assert network(torch.zeros(1, 3, 3 * factor, 2 * factor), time).shape[2:] == (3 * factor, 2 * factor)
    for height, width in ((3 * factor + factor // 2, 2 * factor), (2 * factor, 3 * factor + 1)):
        with pytest.raises((ValueError, RuntimeError)):
            network(torch.zeros(1, 3, height, width), time)


def test_a_conditional_model_of_diffusers_takes_any_shape():
    model = UNet2DConditionModel(
        block_out_channels=(32, 32), layers_per_block=1, cross_attention_dim=8, attention_head_dim=8, in_channels=3,
        down_block_types=["DownBlock2D"] * 2, up_block_types=["UpBlock2D"] * 2, out_channels=3,
    )  # fmt: skip
    network = DiffusersUNet(model)
    assert network.factor == 1
    out = network(torch.zeros(1, 3, 13, 10), torch.full((1,), 0.5), text=torch.zeros(1, 2, 8))
    assert out.shape[2:] == (13, 10)


def _images(size, schedule=None, max_ratio=1, divisor=64):
    """-> data.image_size and the resolution."""
    return size, Resolution(schedule or size, AspectRatios(max_ratio, divisor))


def _plain(shape):
    return shape


def _eighth(shape):
    return (4, shape[1] // 8, shape[2] // 8)


@pytest.mark.parametrize(
    ("images", "factor", "message"),
    [
        (_images(30), 8, r"^data.image_size=30: .* divisible by 8; use 24 or 32$"),
        (_images(6), 8, r"^data.image_size=6: .*; use 8$"),
        (_images(32, [[0, 32], [9, 44]]), 8, r"^data.resolution=44: .* divisible by 8; use 40 or 48$"),
        (_images(20, [[0, 12], [9, 20]]), 8, r"data.image_size=20: (.|\n)*data.resolution=12: "),
        (
            _images(48, max_ratio=2, divisor=12),
            8,
            r"^data.buckets.divisor=12: gives images of .*60x36.*; use .*divisor=16, ",
        ),
    ],
)
def test_shapes_that_the_network_cannot_take_are_told_with_key_value_and_remedy(images, factor, message):
    with pytest.raises(ValueError, match=message):
        check_shapes(*images, factor, _plain)


@pytest.mark.parametrize(
    ("images", "factor", "latent"),
    [
        (_images(32), 8, _plain),
        (_images(30), 1, _plain),
        (_images(48, [[0, 32], [9, 48]], max_ratio=2, divisor=16), 8, _plain),
        (_images(512, max_ratio=2), 8, _eighth),
    ],
)
def test_shapes_that_the_network_takes_pass(images, factor, latent):
    check_shapes(*images, factor, latent)


def _eighths_alone(shape):
    if shape[1] % 8 or shape[2] % 8:
        raise ValueError("the autoencoder takes multiples of 8")
    return _eighth(shape)


def test_latents_are_what_counts():
    with pytest.raises(ValueError, match=r"data.image_size=96: .* use 64 or 128$"):
        check_shapes(*_images(96), 8, _eighths_alone)


def test_what_the_autoencoder_cannot_take_it_tells_itself():
    with pytest.raises(ValueError, match="multiples of 8"):
        check_shapes(*_images(100), 1, _eighths_alone)
