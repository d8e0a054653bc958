"""alpha = 1 - r, sigma = r: straight lines from data to noise; r = shift * t / (1 + (shift - 1) * t).

Liu et al. 2022, "Flow Straight and Fast"; the shift for larger resolutions: Esser et al. 2024, "Scaling Rectified Flow
Transformers for High-Resolution Image Synthesis", equation 23.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from diffusion_train.diffusion.schedule.base import Schedule


class RectifiedFlow(Schedule):
    """`shift` above 1 moves all times towards noise; 3 is Stable Diffusion 3's at 1024 px."""

    zero_terminal_snr = True

    def __init__(self, shift: float = 1.0) -> None:
        if not shift > 0:
            raise ValueError(f"RectifiedFlow: shift={shift:g} must be positive; 1 is no shift")
        self.shift = shift

    def alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        t = t.to(torch.float32)
        scale = 1 + (self.shift - 1) * t
        return (1 - t) / scale, self.shift * t / scale

    def label(self, t: Tensor) -> Tensor:
        """1000 * sigma, so that a network may be sampled with another shift than it was trained with."""
        return 1000 * self.alpha_sigma(t)[1]

    def t_at(self, log_snr: Tensor) -> Tensor:
        return torch.sigmoid(-log_snr / 2 - math.log(self.shift)).clamp(min=self.t_min).to(torch.float32)
