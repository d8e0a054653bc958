"""What is known of an image from its header."""

from __future__ import annotations

from typing import NamedTuple

from diffusion_train.data.image.orientation import orientation

FORMATS = ("JPEG", "PNG", "WEBP", "GIF")
MAX_BYTES = 1 << 26
Box = tuple[int, int, int, int]


class ImageError(ValueError):
    """An image that cannot or must not be decoded."""


class TooManyPixels(ImageError):
    """An image with more pixels than are decoded."""


class Header(NamedTuple):
    """The header of an image: width and height in pixels, upright, and a mode of L, RGB, CMYK, P, LA and RGBA.

    `orientation` is that of EXIF or XMP, 1 if it is missing or invalid; `unusual_orientation` means that it is neither
    in JPEG's or WebP's EXIF nor in PNG's eXIf. `profile` is the ICC profile, None if there is none. `alpha` means that
    parts may be transparent. `frame` is the box (left, top, right, bottom) of a first frame that does not fill the
    image. `cut` means that the end of a PNG is missing, perhaps with its orientation. `buffered` is a JPEG whose
    coefficients libjpeg holds all at once: progressive, or with several scans.
    """

    format: str
    width: int
    height: int
    mode: str
    bits: int = 8
    orientation: int = 1
    alpha: bool = False
    animated: bool = False
    frame: Box | None = None
    cut: bool = False
    profile: bytes | None = None
    unusual_orientation: bool = False
    buffered: bool = False

    @property
    def rotated(self) -> bool:
        """Whether the pixels are stored in another orientation than the upright one."""
        return self.orientation > 1

    @property
    def stored_size(self) -> tuple[int, int]:
        """(width, height) of the pixels as stored, before they are turned upright."""
        return (self.height, self.width) if self.orientation >= 5 else (self.width, self.height)

    def oriented(self, exif: bytes | None, xmp: bytes | None, other_exif: bytes | None = None) -> Header:
        """Return the header with its orientation. `other_exif` is EXIF in another than its usual container."""
        if not (exif or xmp or other_exif):
            return self
        found = orientation(exif or other_exif, xmp)
        return self._replace(orientation=found, unusual_orientation=found != orientation(exif))


def unless_whole(box: Box, width: int, height: int) -> Box | None:
    """Return the box of a frame, None if it fills the image."""
    return None if box == (0, 0, width, height) else box
