"""Transform an RGB image to tensors of bytes; `collate.to_levels` converts them to [-1, 1].

Everything random is keyed by (seed, epoch, sample).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal, Protocol, get_args

import torch
from PIL import Image
from torch import Tensor

from diffusion_train.data.image.decode import Stored, stored
from diffusion_train.data.image.ground import WHITE, Ground, check_ground
from diffusion_train.data.image.header import ImageError
from diffusion_train.data.image.resize import covering, resize_and_crop, to_bytes
from diffusion_train.utils.rng import key_seed

Crop = Literal["center", "random", "focal"]


class Aligned(Protocol):
    """A function that makes a further tensor of a sample from its image, which is already cropped and flipped."""

    def __call__(self, image: Image.Image) -> Tensor: ...


class AlignedError(RuntimeError):
    """An entry of `data.aligned` has failed on an image."""


class ImageTransform:
    """Resizes images to cover the wanted shape, crops them to it, and mirrors some.

    `crop` is the centre, a random position (new each epoch), or the position nearest to the sample's focal point.
    `aligned` are further tensors made from the same view. `nearest` names further images of a sample, such as masks,
    that are resized without interpolation. Raises ValueError for wrong settings.
    """

    def __init__(
        self,
        image_size: int,
        flip: bool = False,
        seed: int = 0,
        background: Ground = WHITE,
        aligned: Mapping[str, Aligned] | None = None,
        crop: Crop = "center",
        nearest: Sequence[str] = (),
    ) -> None:
        if image_size < 1:
            raise ValueError(f"data.image_size={image_size}: must be at least 1 pixel")
        check_ground(background)
        if crop not in get_args(Crop):
            raise ValueError(f"data.crop={crop}: must be one of {', '.join(get_args(Crop))}")
        self.image_size = image_size
        self.flip = flip
        self.seed = seed
        self.background: Ground = background if background == "contrast" else tuple(background)
        self.aligned = dict(aligned or {})
        self.crop = crop
        self.nearest = tuple(nearest)

    @property
    def shape(self) -> tuple[int, int, int]:
        return 3, self.image_size, self.image_size

    def without_augmentation(self) -> ImageTransform:
        """Return the transform without mirroring, and with centre crops in place of random ones."""
        crop: Crop = "center" if self.crop == "random" else self.crop
        return ImageTransform(
            self.image_size, False, self.seed, self.background, self.aligned, crop=crop, nearest=self.nearest
        )

    def flips(self, epoch: int, sample: int) -> bool:
        """Whether the draw of an epoch mirrors the sample; this is known before the sample is read."""
        return self.flip and key_seed("flip", self.seed, epoch, sample) % 2 == 1

    def __call__(
        self,
        image: Image.Image,
        epoch: int,
        sample: int,
        shape: Sequence[int] | None = None,
        flipped: bool | None = None,
        focal: Sequence[float] | None = None,
        others: Mapping[str, Image.Image] | None = None,
    ) -> dict[str, Tensor]:
        """Return "x" (3, H, W) uint8 of `shape` (H, W), by default a square, and "original_size" and "crop" (2,) int64.

        The image is mirrored as drawn, unless `flipped` is given. "original_size" is the (height, width) of the upright
        image as stored. "crop" is the (top, left) of the view in pixels of the resized image, or of its mirror image if
        the view is mirrored; these are SDXL's micro-conditions. `focal` is (x, y) in [0, 1]. `others` are resized,
        cropped and mirrored in the same way. Raises ImageError for a wrong focal point or an image in `others` with
        another aspect ratio, and AlignedError if a part of `aligned` fails.
        """
        shape = (self.image_size, self.image_size) if shape is None else tuple(shape)
        original = stored(image)
        size = covering(original.height, original.width, shape)
        corner = self._corner(size, shape, epoch, sample, focal)
        flipped = self.flips(epoch, sample) if flipped is None else flipped
        images = dict(others or {})
        _check_same_view(original, images)

        def seen(whole: Image.Image, nearest: bool = False) -> Tensor:
            pixels = resize_and_crop(whole, size, corner, shape, nearest)
            return (pixels.flip(-1) if flipped else pixels).contiguous()

        pixels, (top, left) = seen(image), corner
        return {
            **{name: seen(other, name in self.nearest) for name, other in images.items()},
            **self._aligned(pixels),
            "x": pixels,
            "original_size": torch.tensor([original.height, original.width]),
            "crop": torch.tensor([top, size[1] - shape[1] - left if flipped else left]),
        }

    def _corner(
        self, size: Sequence[int], shape: Sequence[int], epoch: int, sample: int, focal: Sequence[float] | None
    ) -> tuple[int, int]:
        """Return (top, left) of the view in the resized image."""
        top, left = (side - length for side, length in zip(size, shape, strict=True))  # the last position that fits
        if self.crop == "random":
            across, down = (key_seed("crop", axis, self.seed, epoch, sample) for axis in "xy")
            return down % (top + 1), across % (left + 1)
        x, y = _point(focal) if self.crop == "focal" and focal is not None else (0.5, 0.5)
        return _nearest_start(y, size[0], shape[0]), _nearest_start(x, size[1], shape[1])

    def _aligned(self, pixels: Tensor) -> dict[str, Tensor]:
        if not self.aligned:
            return {}
        image = Image.fromarray(pixels.permute(1, 2, 0).numpy())
        tensors = {}
        for name, make in self.aligned.items():
            try:
                tensors[name] = make(image)
            except Exception as error:
                raise AlignedError(f"data.aligned.{name}: {type(error).__name__}: {error}") from error
        return tensors


class Downscale:
    """Scales an image down to `image_size` pixels and back to its size, as the input of a super-resolution network."""

    def __init__(self, image_size: int) -> None:
        if image_size < 1:
            raise ValueError(f"data.aligned: image_size must be at least 1, got {image_size}")
        self.image_size = image_size

    def __call__(self, image: Image.Image) -> Tensor:
        small = image.resize((self.image_size, self.image_size), Image.Resampling.BICUBIC)
        return to_bytes(small.resize(image.size, Image.Resampling.BICUBIC))


def _point(focal: Sequence[float]) -> Sequence[float]:
    if len(focal) != 2 or not all(
        abs(part) < 1e9 for part in focal
    ):  # NaN, infinity and numbers too large to compute with
        raise ImageError(f"focal point {list(focal)}: must be two numbers in [0, 1], from the left and from the top")
    return focal


def _nearest_start(middle: float, side: int, length: int) -> int:
    """Return where `length` of `side` pixels start, with their centre nearest to `middle`, a fraction of `side`."""
    return min(max(math.floor(middle * side - length / 2), 0), side - length)


def _check_same_view(original: Stored, others: Mapping[str, Image.Image]) -> None:
    for name, image in others.items():
        other = stored(image)
        # rounding the same aspect ratio changes one of the sides by at most a pixel
        if (
            min(
                abs(other.width - original.width * other.height / original.height),
                abs(other.height - original.height * other.width / original.width),
            )
            > 1
        ):
            raise ImageError(
                f"{name} must have the aspect ratio of the image, {original.width} x {original.height} pixels, got "
                f"{other.width} x {other.height}"
            )
