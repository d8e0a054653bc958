"""Decode untrusted bytes to RGB images. Colours become sRGB, by a colour profile if there is one."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, NamedTuple

import numpy as np
import simplejpeg
from PIL import Image

from diffusion_train.data.image.ground import WHITE, Ground, on_ground
from diffusion_train.data.image.header import Header, ImageError, TooManyPixels
from diffusion_train.data.image.profile import to_srgb
from diffusion_train.data.image.read_header import image_header

IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp", "gif")
OTHER_IMAGES = ("avif", "bmp", "heic", "heif", "jp2", "jxl", "psd", "svg", "tif", "tiff")  # not supported
MAX_PIXELS = 1 << 26  # 8192 x 8192
# A JPEG that is reduced while it is decoded keeps at least this many times the wanted side. At 1.5 the resized image
# differs by less than 2/255 from one resized from the full JPEG, on average over sharp photographs; at 1.0 by more.
MARGIN = 1.5
Animated = Literal["first", "refuse"]
Huge = Literal["refuse", "reduce"]


def is_image_name(name: str) -> bool:
    """Whether a name or extension, such as "v2.png", is that of an image, of a supported format or of another one."""
    return name.rpartition(".")[2].lower() in IMAGE_EXTENSIONS + OTHER_IMAGES


class Stored(NamedTuple):
    """The size of an image as it is stored: height and width in pixels, upright.

    `box` (left, top, right, bottom) is the area of the decoded image that shows it. In a reduced JPEG the last column
    and row may only be partly covered.
    """

    height: int
    width: int
    box: tuple[float, float, float, float]


def decode_image(
    data: bytes,
    background: Ground | None = WHITE,
    at_least: Sequence[int] = (0, 0),
    animated: Animated = "first",
    huge: Huge = "refuse",
) -> Image.Image:
    """Decode the first frame as RGB, upright, with transparent parts over `background`; `stored` returns its full size.

    Without a background the image is RGBA and stays transparent. A JPEG that is much larger than `at_least` (height,
    width) may be reduced; by default nothing is. Raises ImageError, and TooManyPixels for more than MAX_PIXELS; with
    huge="reduce" a JPEG may have more if it is reduced to fewer.
    """
    header = image_header(data)
    factor = _reduction(header, at_least)
    if _pixels_in_memory(header, factor if huge == "reduce" else 1) > MAX_PIXELS:
        raise TooManyPixels(f"{header.width} x {header.height} pixels, more than {MAX_PIXELS} in total")
    if header.animated and animated == "refuse":
        raise ImageError("has several frames, and data.animated=refuse is set")
    if header.cut:
        raise ImageError("damaged image (its end is missing)")
    with _pillow_errors():
        image = _fast_jpeg(data, header, factor)
        image = to_srgb(image, header) if image else _over(_open(data, header, factor), header, background)
    return _upright(image, header, factor)


def stored(image: Image.Image) -> Stored:
    """Return how an image of `decode_image` is stored. Any other image, or a modified one, counts as full size."""
    size, found = image.info.get("stored", (None, None))
    return found if size == image.size else Stored(image.height, image.width, (0, 0, image.width, image.height))


def _reduction(header: Header, at_least: Sequence[int]) -> int:
    """Return the largest factor of 1, 2, 4 and 8 that leaves MARGIN times `at_least`."""
    if header.format != "JPEG" or not all(at_least):
        return 1
    # 16: below that libjpeg chooses other factors, and nothing is gained
    height, width = (max(16, MARGIN * side) for side in at_least)
    return next((n for n in (8, 4, 2) if header.height >= n * height and header.width >= n * width), 1)


def _pixels_in_memory(header: Header, factor: int) -> float:
    """Return the pixels that decoding holds at once;
    libjpeg's coefficients of a buffered JPEG count as half as many.
    """
    pixels = header.width * header.height
    held_whole = header.buffered or header.mode == "CMYK"
    return max(pixels / factor**2, pixels / 2 if held_whole else 0)


def _fast_jpeg(data: bytes, header: Header, factor: int) -> Image.Image | None:
    """Decode a JPEG with libjpeg-turbo, or return None if Pillow must be used."""
    if header.format != "JPEG" or header.mode == "CMYK":
        return None
    width, height = (-(-side // factor) for side in header.stored_size)
    try:
        if simplejpeg.decode_jpeg_header(data, height, width)[:2] != (height, width):
            return None
        return Image.fromarray(simplejpeg.decode_jpeg(data, "RGB", min_height=height, min_width=width))
    except ValueError as error:
        if any(sign in str(error).lower() for sign in ("premature end", "bad huffman", "instead of rst")):
            raise  # Pillow would return a damaged image
        return None


def _open(data: bytes, header: Header, factor: int) -> Image.Image:
    image = Image.open(io.BytesIO(data), formats=(header.format,))
    if image.size != header.stored_size:
        raise ImageError(f"the header says {header.stored_size} pixels, but Pillow reads {image.size}")
    if factor > 1:
        width, height = header.stored_size
        image.draft(None, (width // factor, height // factor))
    return image


def _over(image: Image.Image, header: Header, background: Ground | None) -> Image.Image:
    """Convert to RGB, with transparent parts over `background`, or to RGBA without one."""
    image = _to_eight_bits(image, header)
    image = to_srgb(image.convert("RGBA") if image.has_transparency_data else image, header)
    if header.frame is not None:
        canvas = Image.new("RGBA", image.size)
        canvas.paste(image.convert("RGBA").crop(header.frame), header.frame)
        image = canvas
    if background is None:
        return image.convert("RGBA")
    return on_ground(image, background) if image.mode == "RGBA" else image.convert("RGB")


def _to_eight_bits(image: Image.Image, header: Header) -> Image.Image:
    """Convert 16-bit grey, which Pillow would clip to white, and scale the transparent level of other bit depths."""
    key = image.info.get("transparency")
    if image.mode.startswith("I"):
        grey = np.asarray(image).astype(np.int64)
        image = Image.fromarray(((grey + 128) // 257).astype(np.uint8))
        if key is not None:
            image.putalpha(Image.fromarray(np.where(grey == key, 0, 255).astype(np.uint8)))
    elif key is not None and header.mode == "L" and header.bits in (2, 4):
        image.info["transparency"] = key * 255 // (2**header.bits - 1)
    elif key is not None and header.mode == "RGB" and header.bits == 16:
        image.info["transparency"] = tuple(level >> 8 for level in key)
    return image


# EXIF orientation -> how to turn the image upright, and whether its last column and row become the first
_UPRIGHT = {
    2: (Image.Transpose.FLIP_LEFT_RIGHT, True, False),
    3: (Image.Transpose.ROTATE_180, True, True),
    4: (Image.Transpose.FLIP_TOP_BOTTOM, False, True),
    5: (Image.Transpose.TRANSPOSE, False, False),
    6: (Image.Transpose.ROTATE_270, True, False),
    7: (Image.Transpose.TRANSVERSE, True, True),
    8: (Image.Transpose.ROTATE_90, False, True),
}


def _upright(image: Image.Image, header: Header, factor: int) -> Image.Image:
    turn, from_right, from_bottom = _UPRIGHT.get(header.orientation, (None, False, False))
    if turn is not None:
        image = image.transpose(turn)
    width, height = header.width / factor, header.height / factor
    left, top = (image.width - width) * from_right, (image.height - height) * from_bottom
    box = (left, top, left + width, top + height)
    image.info = {"stored": (image.size, Stored(header.height, header.width, box))}
    return image


@contextmanager
def _pillow_errors() -> Iterator[None]:
    """Turn any exception into ImageError: damaged files make Pillow raise almost anything."""
    try:
        yield
    except (ImageError, MemoryError):
        raise
    except Exception as error:
        raise ImageError(f"damaged image ({type(error).__name__}: {error})") from error
