"""The pictures of a report: written as they are drawn, so that they are never in memory together."""

from __future__ import annotations

import hashlib
from pathlib import Path

from torch import Tensor

from diffusion_train.picture import save_png, to_image


class Album:
    """PNG files of a folder, each named by the hash of its pixels and sizes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._kept: set[str] = set()

    def keep(self, x: Tensor) -> str:
        """An image (C, H, W) in [-1, 1] -> the name of its file, without the ending."""
        image = to_image(x)
        name = hashlib.sha256(f"{image.mode} {image.size} ".encode() + image.tobytes()).hexdigest()[:32]
        if name not in self._kept:
            save_png(image, self.folder / f"{name}.png")
            self._kept.add(name)
        return name
