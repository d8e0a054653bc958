"""Conditions that were computed before and come with the batch."""

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
    """Passes on what stands in the batch under the names of `shapes`, one row's shape each; masks end in "_mask".

    "No condition" is read from the safetensors file `null_file` (same names, a row's shape: for text, the embedding of an
    empty caption). Without one it is zero, and a mask shows its first place alone. ValueError for a missing name or
    another shape.
    """

    reads_images = True  # what comes with a picture may be what is passed on

    def __init__(self, shapes: Mapping[str, Sequence[int]], null_file: str = "") -> None:
        super().__init__()
        self.shapes = {name: tuple(shape) for name, shape in shapes.items()}
        given = (
            load_file(Path(null_file))
            if null_file
            else {name: _nothing(name, shape) for name, shape in self.shapes.items()}
        )
        self.nothing = {
            name: self._checked(name, entry(given, name, f"conditioner.null_file={null_file}")) for name in self.shapes
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
                f"{name!r} has rows of shape {tuple(value.shape[axis:])}, conditioner.shapes says {self.shapes[name]}"
            )
        return value

    def _moved(self, name: str, value: Tensor) -> Tensor:
        return to_device(value, self.like.device, torch.bool if name.endswith("_mask") else self.like.dtype)


def _nothing(name: str, shape: tuple[int, ...]) -> Tensor:
    row = torch.zeros(shape)
    if name.endswith("_mask"):
        row[..., 0] = 1  # attention over no place at all is not a number
    return row
