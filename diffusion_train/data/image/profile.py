"""Convert colours to sRGB by the ICC profile in an image. An image without a profile is sRGB already."""

from __future__ import annotations

import io
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image, ImageCms

from diffusion_train.data.image.header import Header

# Space of a profile -> mode of the header -> mode of the levels that the profile describes. Grey levels of an RGB
# profile are converted as three equal ones.
_LEVELS = {
    "RGB": dict.fromkeys(("RGB", "RGBA", "P", "L", "LA"), "RGB"),
    "GRAY": dict.fromkeys(("L", "LA"), "L"),
    "CMYK": {"CMYK": "CMYK"},
}
_SAME = 1  # levels by which a profile may differ from sRGB and count as sRGB
Use = Literal["", "converted", "ignored"]


class _Conversion(NamedTuple):
    """A conversion of levels of a mode to sRGB; None for a profile that is sRGB, broken or of another colour space."""

    use: Use
    mode: str = ""
    transform: ImageCms.ImageCmsTransform | None = None


def profile_use(header: Header) -> Use:
    """Return what becomes of the profile of an image: "" if there is none, or if it is sRGB, which changes nothing.

    "ignored" means that it is broken or describes other colours than those of the image.
    """
    return "" if header.profile is None else _conversion(header.profile, header.mode).use


def to_srgb(image: Image.Image, header: Header) -> Image.Image:
    """Return a decoded image in sRGB; RGBA keeps its transparency."""
    if header.profile is None:
        return image
    _, mode, transform = _conversion(header.profile, header.mode)
    if transform is None:
        return image
    levels = image if mode == "CMYK" else image.convert("RGB")
    converted = ImageCms.applyTransform(levels.getchannel(0) if mode == "L" else levels, transform)
    assert converted is not None
    if image.mode == "RGBA":
        converted.putalpha(image.getchannel("A"))
    return converted


@lru_cache(maxsize=16)
def _conversion(profile: bytes, mode: str) -> _Conversion:
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        levels = _LEVELS[source.profile.xcolor_space.strip()][mode]
        transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), levels, "RGB")
    except (ImageCms.PyCMSError, OSError, KeyError):
        return _Conversion("ignored")
    return _Conversion("") if _is_srgb(transform, levels) else _Conversion("converted", levels, transform)


def _is_srgb(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    """Whether a conversion changes no colour, by its effect: many profiles of many names are sRGB."""
    if mode == "CMYK":
        return False
    steps = np.arange(0, 256, 15, dtype=np.uint8)
    colours = np.stack(np.meshgrid(steps, steps, steps), -1).reshape(1, -1, 3) if mode == "RGB" else steps[None]
    converted = np.asarray(ImageCms.applyTransform(Image.fromarray(colours), transform), np.int64)
    return bool(abs(converted - colours.reshape(1, -1, 3 if mode == "RGB" else 1)).max() <= _SAME)
