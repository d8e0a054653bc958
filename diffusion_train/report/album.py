"""Pictures of a report, written to disk as they are drawn: they are never in memory together."""

from __future__ import annotations

import base64
import hashlib
import io
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup
from PIL import Image
from torch import Tensor

from diffusion_train.picture import save_png, to_image

_LARGE = 256  # the page embeds pictures with more pixels a side as JPEG
_SMALL = 128  # the page shows the single pixels of pictures with at most so many a side


class Album:
    """A folder of PNG files, each named by the hash of its pixels and size."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._names: set[str] = set()

    def add(self, x: Tensor) -> str:
        """Write an image (C, H, W) in [-1, 1] and return the name of its file, without the suffix."""
        image = to_image(x)
        name = hashlib.sha256(f"{image.mode} {image.size} ".encode() + image.tobytes()).hexdigest()[:32]
        if name not in self._names:
            save_png(image, self.folder / f"{name}.png")
            self._names.add(name)
        return name


@dataclass(frozen=True)
class Embedded:
    """A picture as a data URL."""

    url: Markup
    small: bool


def embedded(folder: Path, name: str) -> Embedded | None:
    """Return the picture `name` of an album's folder, or None if the file does not exist."""
    file = folder / f"{name}.png"
    if not file.is_file():
        return None
    image, out = Image.open(file, formats=["PNG"]), io.BytesIO()
    kind = "jpeg" if max(image.size) > _LARGE else "png"
    (image.convert("RGB") if kind == "jpeg" else image).save(out, kind, quality=90)
    data = base64.b64encode(out.getvalue()).decode()
    return Embedded(Markup(f"data:image/{kind};base64,{data}"), max(image.size) <= _SMALL)
