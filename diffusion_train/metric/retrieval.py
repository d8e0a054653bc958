"""Retrieval: how often the real image with a sample's caption is the nearest of all real images."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat


class Retrieval(Metric):
    """Top-1 retrieval: the fraction of samples whose nearest real image is the one with their caption.

    Chance is 1 / N, so compare values only for equal N. Of equally near images the first counts as nearest.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("generated", default=[], dist_reduce_fx="cat")
        self.add_state("real", default=[], dist_reduce_fx="cat")

    def update(self, generated: Tensor, real: Tensor) -> None:
        """Add features (N, D) of generated and real images; row i of both has the same caption."""
        if generated.shape != real.shape:
            raise ValueError(
                f"one real image per sample is needed, got {tuple(generated.shape)} and {tuple(real.shape)} features"
            )
        self.generated.append(generated.detach())  # type: ignore[union-attr,operator]
        self.real.append(real.detach())  # type: ignore[union-attr,operator]

    def compute(self) -> Tensor:
        generated, real = dim_zero_cat(self.generated).cpu(), dim_zero_cat(self.real).cpu()  # type: ignore[arg-type]
        nearest = torch.cdist(generated.double(), real.double()).argmin(1)
        return (nearest == torch.arange(len(real))).float().mean()
