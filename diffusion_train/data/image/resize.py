"""Resize an image and cut out a view of it, computing little more than the view: bicubic with antialiasing."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from diffusion_train.data.image.decode import stored

# torch's kernel for bytes takes a fifth of Pillow's time with AVX2, and twice without; some results differ by one level
_VECTORIZED = torch.backends.cpu.get_cpu_capability().startswith("AVX")


def covering(height: int, width: int, shape: Sequence[int]) -> tuple[int, int]:
    """Return the smallest (height, width) of this aspect ratio, to the nearest pixel, that covers `shape` (H, W)."""
    rows, columns = shape
    if rows * width >= columns * height:
        return rows, max(columns, _divide(width * rows, height))
    return max(rows, _divide(height * columns, width)), columns


def resize_and_crop(
    image: Image.Image, size: Sequence[int], corner: Sequence[int], shape: Sequence[int], nearest: bool = False
) -> Tensor:
    """Return a view (3, H, W) uint8 of an RGB image resized to `size` (height, width).

    `shape` is (H, W), `corner` the (top, left) of the view in the resized image. `nearest` resizes without
    interpolation.
    """
    left, top, _, _ = stored(image).box
    little_to_spare = size[0] * size[1] <= 4 * shape[0] * shape[1]
    if _VECTORIZED and not nearest and little_to_spare and left == top == 0:
        rows, columns = (slice(start, start + side) for start, side in zip(corner, shape, strict=True))
        return _whole(image, size)[:, rows, columns]
    return _part(image, size, corner, shape, nearest)


def to_bytes(image: Image.Image) -> Tensor:
    """Return an image as a tensor (3, height, width) of uint8."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def _whole(image: Image.Image, size: Sequence[int]) -> Tensor:
    """Resize the whole image with torch; the stored image must begin at the first pixel."""
    height, width = size
    _, _, right, bottom = stored(image).box
    pixels = to_bytes(image)[None]
    if (right, bottom) == image.size:
        return functional.interpolate(pixels, (height, width), mode="bicubic", antialias=True)[0]
    # of the stored image, which ends within the last pixels
    scale = (_scale(height, bottom, image.height), _scale(width, right, image.width))
    return functional.interpolate(pixels, scale_factor=scale, mode="bicubic", antialias=True)[0, :, :height, :width]


def _scale(wanted: int, end: float, side: int) -> float:
    """Return wanted / end, made greater by as little as is needed to give `side` pixels at least `wanted`."""
    scale = wanted / end
    while math.floor(side * scale) < wanted:
        scale = math.nextafter(scale, math.inf)
    return scale


def _part(
    image: Image.Image, size: Sequence[int], corner: Sequence[int], shape: Sequence[int], nearest: bool
) -> Tensor:
    """Resize only the view, with Pillow."""
    left, top, right, bottom = stored(image).box
    down, across = (bottom - top) / size[0], (right - left) / size[1]
    box = (
        left + corner[1] * across,
        top + corner[0] * down,
        min(right, left + (corner[1] + shape[1]) * across),
        min(bottom, top + (corner[0] + shape[0]) * down),
    )
    resample = Image.Resampling.NEAREST if nearest else Image.Resampling.BICUBIC
    return to_bytes(image.resize((shape[1], shape[0]), resample, box))


def _divide(numerator: int, denominator: int) -> int:
    """Divide integers and round half up, without floats."""
    return (2 * numerator + denominator) // (2 * denominator)
