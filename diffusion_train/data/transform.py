"""RGB image -> tensors in [-1, 1]; everything random is keyed by (seed, epoch, sample)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from diffusion_train.data.decode import WHITE
from diffusion_train.utils.rng import key_seed


class Aligned(Protocol):
    """What a further tensor of a sample is made of: its image, already cropped and flipped."""

    def __call__(self, image: Image.Image) -> Tensor: ...


class ImageTransform:
    """Centre square, resized to `image_size`, perhaps flipped; `aligned` names further tensors of the same view."""

    def __init__(
        self,
        image_size: int,
        flip: bool = False,
        seed: int = 0,
        background: Sequence[int] = WHITE,
        aligned: Mapping[str, Aligned] | None = None,
    ) -> None:
        if image_size < 1:
            raise ValueError(f"data.image_size={image_size}: at least 1 pixel")
        if len(background) != 3 or not all(0 <= level <= 255 for level in background):
            raise ValueError(f"data.background={list(background)}: three levels of 0 to 255, red, green and blue")
        self.image_size = image_size
        self.flip = flip
        self.seed = seed
        self.background = tuple(background)
        self.aligned = dict(aligned or {})

    @property
    def shape(self) -> tuple[int, int, int]:
        return 3, self.image_size, self.image_size

    def without_augmentation(self) -> ImageTransform:
        return ImageTransform(self.image_size, False, self.seed, self.background, self.aligned)

    def __call__(self, image: Image.Image, epoch: int, sample: int) -> dict[str, Tensor]:
        view = centre_square(image, self.image_size)
        if self.flip and key_seed("flip", self.seed, epoch, sample) % 2:
            view = ImageOps.mirror(view)
        return {"x": to_tensor(view)} | {name: make(view) for name, make in self.aligned.items()}


class Downscale:
    """The image at `image_size` pixels, brought back to its own size: what a super-resolution network starts from."""

    def __init__(self, image_size: int) -> None:
        self.image_size = image_size

    def __call__(self, image: Image.Image) -> Tensor:
        small = image.resize((self.image_size, self.image_size), Image.Resampling.BICUBIC)
        return to_tensor(small.resize(image.size, Image.Resampling.BICUBIC))


def centre_square(image: Image.Image, size: int) -> Image.Image:
    """Antialiased bicubic."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    # cropped first: resizing from a box would mix in what lies outside
    return image.crop((left, top, left + side, top + side)).resize((size, size), Image.Resampling.BICUBIC)


def to_tensor(image: Image.Image) -> Tensor:
    """RGB -> (3, H, W) in [-1, 1], float32."""
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    return pixels.float().div_(127.5).sub_(1.0).contiguous()
