"""Rectified flow, straight lines from data to noise: alpha = 1 - r, sigma = r, r = shift * t / (1 + (shift - 1) * t).

Liu et al. 2022, "Flow Straight and Fast"; the shift for larger resolutions: Esser et al. 2024, "Scaling Rectified Flow
Transformers for High-Resolution Image Synthesis", equation 23.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from diffusion_train.diffusion.schedule.base import Schedule


class RectifiedFlow(Schedule):
    """Schedule of rectified flow. A `shift` above 1 adds noise at every t; Stable Diffusion 3 uses 3 at 1024 px."""

    zero_terminal_snr = True

    def __init__(self, shift: float = 1.0) -> None:
        if not shift > 0:
            raise ValueError(f"RectifiedFlow: shift={shift:g} must be positive; 1 turns it off")
        self.shift = shift

    def alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        t = t.to(torch.float32)
        scale = 1 + (self.shift - 1) * t
        return (1 - t) / scale, self.shift * t / scale

    def label(self, t: Tensor) -> Tensor:
        """Return 1000 * sigma (B,), so that a network can be sampled with another shift than in training."""
        return 1000 * self.alpha_sigma(t)[1]

    def t_at(self, log_snr: Tensor) -> Tensor:
        return torch.sigmoid(-log_snr / 2 - math.log(self.shift)).clamp(min=self.t_min).to(torch.float32)
