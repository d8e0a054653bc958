"""HEIF, AVIF, TIFF and BMP, which shards do not hold: their headers, and their pixels upright and in sRGB."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import Image, ImageOps
from pillow_heif import HeifImageFile

from diffusion_train.data.image.header import Header, ImageError
from diffusion_train.data.image.profile import to_srgb

# Mode of Pillow -> mode of the header. Float and 32-bit pixels have no scale, and Lab has no conversion in Pillow.
_MODES = {"1": "L", "L": "L", "LA": "LA", "P": "P", "PA": "RGBA", "RGB": "RGB", "RGBX": "RGB", "YCbCr": "RGB"}
_MODES |= {"RGBA": "RGBA", "RGBa": "RGBA", "CMYK": "CMYK", "I;16": "L", "I;16B": "L", "I;16L": "L"}
_ORIENTATION = 0x0112
_HDR = (16, 18)  # PQ and HLG in ITU-T H.273, table 3


def pillow_header(data: bytes, format: str) -> Header:
    """Return the header of an image of this format, upright, without decoding pixels. Raises ImageError."""
    with _pillow_errors(format):
        image = _opened(data, format)
        if image.mode not in _MODES:
            raise ImageError(f"{format} with pixels of mode {image.mode}; save it with 8 or 16 bits per channel")
        if (image.info.get("nclx_profile") or {}).get("transfer_characteristics") in _HDR:
            raise ImageError(f"{format} with HDR levels (PQ or HLG); export it in SDR")
        # Pillow turns TIFF upright itself, and pillow_heif HEIF
        turned = format == "AVIF" and image.getexif().get(_ORIENTATION, 1) >= 5
        width, height = reversed(image.size) if turned else image.size
        return Header(
            format,
            width,
            height,
            _MODES[image.mode],
            alpha=image.has_transparency_data,
            animated=getattr(image, "n_frames", 1) > 1,
            profile=image.info.get("icc_profile"),
        )


def decode_pillow(data: bytes, header: Header) -> Image.Image:
    """Return the first frame as RGB, or as RGBA if parts may be transparent. Raises ImageError."""
    with _pillow_errors(header.format):
        image = _opened(data, header.format)
        image.load()
        upright = _eight_bits(ImageOps.exif_transpose(image))
        return to_srgb(upright.convert("RGBA") if header.alpha else upright, header).convert(
            "RGBA" if header.alpha else "RGB"
        )


def _opened(data: bytes, format: str) -> Image.Image:
    stream = io.BytesIO(data)
    return HeifImageFile(stream) if format == "HEIF" else Image.open(stream, formats=(format,))


def _eight_bits(image: Image.Image) -> Image.Image:
    """Scale 16-bit grey, which Pillow would clip to white."""
    if not image.mode.startswith("I;16"):
        return image
    return Image.fromarray(((np.asarray(image).astype(np.int64) + 128) // 257).astype(np.uint8))


@contextmanager
def _pillow_errors(format: str) -> Iterator[None]:
    """Turn any exception into ImageError, as damaged files make the libraries raise almost anything; hide warnings."""
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    except (ImageError, MemoryError):
        raise
    except Exception as error:
        raise ImageError(f"damaged {format} ({type(error).__name__}: {error})") from error
