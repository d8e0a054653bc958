"""Two-dimensional distributions, the smallest data for a diffusion model."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from diffusion_train.data.base import Sample
from diffusion_train.data.order.order import Draw
from diffusion_train.data.shard.problem import Problem
from diffusion_train.utils.rng import key_seed


class PointsDataset:
    """A data set of `num_samples` points (2,) of one kind, within about [-1, 1].

    Raises ValueError for wrong settings.
    """

    problems: Sequence[Problem] = ()
    caption_settings = "none"

    def __init__(self, kind: str, num_samples: int, seed: int = 0, num_holdout: int = 0) -> None:
        if kind not in KINDS:
            raise ValueError(f"data.kind={kind}: must be one of {', '.join(KINDS)}")
        if num_samples < 1 or num_holdout < 0:
            raise ValueError(
                f"data.num_samples={num_samples}: must be at least 1; data.holdout={num_holdout}: must be at least 0"
            )
        self.kind = kind
        self.seed = seed
        self.num_holdout = num_holdout
        self.shape = (2,)
        self.points = KINDS[kind](num_samples, Generator().manual_seed(key_seed("points", kind, seed)))
        self.facts = {"kind": kind}
        self.fingerprint = hashlib.sha256(self.points.numpy().tobytes()).hexdigest()

    def __len__(self) -> int:
        return len(self.points)

    def read(self, draws: Sequence[Draw]) -> list[Sample]:
        return [
            {"x": self.points[i], "caption": "", "key": f"{i:09d}", "index": i, "bad": ""}
            for i in (draw.sample for draw in draws)
        ]

    @property
    def sources(self) -> dict[str, int]:
        return {self.kind: len(self)}

    def sample_ids(self) -> NDArray[np.uint64]:
        return self.points.numpy().view(np.uint64)[:, 0]

    def holdout(self) -> PointsDataset:
        """Return other points of the same distribution."""
        other = PointsDataset(self.kind, max(self.num_holdout, 1), key_seed("holdout", self.seed))
        other.points = other.points[: self.num_holdout]
        return other


def _two_moons(num: int, generator: Generator) -> Tensor:
    angle = torch.pi * torch.rand(num, generator=generator)
    side = torch.randint(2, (num,), generator=generator) * 2 - 1
    arcs = torch.stack([angle.cos() - side / 2, side * (angle.sin() - 0.25)], 1)
    return 0.6 * (arcs + 0.05 * torch.randn(num, 2, generator=generator))


def _checkerboard(num: int, generator: Generator) -> Tensor:
    """Draw points on the black squares of a 4 x 4 board."""
    column, half = torch.randint(4, (num,), generator=generator), torch.randint(2, (num,), generator=generator)
    square = torch.stack([column, 2 * half + column % 2], 1)
    return (square + torch.rand(num, 2, generator=generator)) / 2 - 1


def _spiral(num: int, generator: Generator) -> Tensor:
    """Draw points on a spiral of one and a half turns."""
    radius = torch.rand(num, generator=generator).sqrt()
    angle = 3 * torch.pi * radius
    arm = 0.9 * radius[:, None] * torch.stack([angle.cos(), angle.sin()], 1)
    return arm + 0.02 * torch.randn(num, 2, generator=generator)


def _ring_of_gaussians(num: int, generator: Generator) -> Tensor:
    angle = torch.randint(8, (num,), generator=generator) * (torch.pi / 4)
    centre = 0.8 * torch.stack([angle.cos(), angle.sin()], 1)
    return centre + 0.05 * torch.randn(num, 2, generator=generator)


KINDS: dict[str, Callable[[int, Generator], Tensor]] = {
    "two_moons": _two_moons,
    "checkerboard": _checkerboard,
    "spiral": _spiral,
    "ring_of_gaussians": _ring_of_gaussians,
}
