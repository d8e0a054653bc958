"""The background of transparent images: one colour for all, or white or black, whichever makes the image visible."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, cast

from PIL import Image

WHITE, BLACK = (255, 255, 255), (0, 0, 0)
Ground = Sequence[int] | Literal["contrast"]
_LEVELS = 16  # an image whose levels differ by fewer shows nothing


def check_ground(ground: Ground) -> None:
    """Raises ValueError unless `ground` is "contrast" or a colour."""
    if ground != "contrast" and (
        len(ground) != 3 or not all(0 <= level <= 255 for level in cast(Sequence[int], ground))
    ):
        raise ValueError(
            f"data.background={ground if isinstance(ground, str) else list(ground)}: must be red, green and blue, "
            "each from 0 to 255, or contrast"
        )


def on_ground(image: Image.Image, ground: Ground) -> Image.Image:
    """Return an RGBA image as RGB on `ground`; "contrast" is white,
    or black for an image that is blank on white only.
    """
    if ground != "contrast":
        colour = (*cast(Sequence[int], ground), 255)
        return Image.alpha_composite(Image.new("RGBA", image.size, colour), image).convert("RGB")
    on_white = on_ground(image, WHITE)
    if not is_blank(on_white):
        return on_white
    on_black = on_ground(image, BLACK)
    return on_white if is_blank(on_black) else on_black


def is_blank(image: Image.Image) -> bool:
    """Whether an RGB image is, to the eye, one colour."""
    return all(highest - lowest < _LEVELS for lowest, highest in cast(list[tuple[int, int]], image.getextrema()))
