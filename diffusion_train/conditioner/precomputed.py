"""Precomputed conditions, which the batch holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from diffusion_train.conditioner.base import Cond, Conditioner, entry
from diffusion_train.utils.tensor import to_device


class Precomputed(Conditioner):
    """Returns the entries of the batch that `shapes` names, with the shape of one row each; masks are named "*_mask".

    "No condition" is read from the safetensors file `null_file`, one row of each name (for text, the embedding of an
    empty caption). Without a file it is zero, and masks are true at the first position only. Raises ValueError if a
    name is missing or has another shape.
    """

    reads_images = True  # precomputed conditions may come from an image

    def __init__(self, shapes: Mapping[str, Sequence[int]], null_file: str = "") -> None:
        super().__init__()
        self.shapes = {name: tuple(shape) for name, shape in shapes.items()}
        rows = (
            load_file(Path(null_file))
            if null_file
            else {name: _nothing(name, shape) for name, shape in self.shapes.items()}
        )
        self.nothing = {
            name: self._checked(name, entry(rows, name, f"conditioner.null_file={null_file}")) for name in self.shapes
        }

    def forward(self, batch: dict[str, Any]) -> Cond:
        return {
            name: self._moved(name, self._checked(name, entry(batch, name, "Precomputed"), 1)) for name in self.shapes
        }

    def null(self, n: int) -> Cond:
        return {name: self._moved(name, row.expand(n, *row.shape)) for name, row in self.nothing.items()}

    def _checked(self, name: str, value: Tensor, axis: int = 0) -> Tensor:
        if value.shape[axis:] != self.shapes[name]:
            raise ValueError(
                f"rows of {name!r} must have the shape {self.shapes[name]} of conditioner.shapes, got shape "
                f"{tuple(value.shape[axis:])}"
            )
        return value

    def _moved(self, name: str, value: Tensor) -> Tensor:
        return to_device(value, self.like.device, torch.bool if name.endswith("_mask") else self.like.dtype)


def _nothing(name: str, shape: tuple[int, ...]) -> Tensor:
    row = torch.zeros(shape)
    if name.endswith("_mask"):
        row[..., 0] = 1  # attention over no position at all gives NaN
    return row
