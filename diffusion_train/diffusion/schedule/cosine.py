"""The cosine schedule: alpha-bar(t) = f(t) / f(0), f(t) = cos^2((t + s) / (1 + s) * pi / 2).

Nichol & Dhariwal 2021, "Improved Denoising Diffusion Probabilistic Models", equation 17; betas are clipped as in the
paper.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from diffusion_train.diffusion.schedule.discrete import DiscreteSchedule, betas_of


class Cosine(DiscreteSchedule):
    """Cosine noise schedule of Nichol and Dhariwal (2021); `offset` is the paper's s."""

    def __init__(
        self,
        num_steps: int = 1000,
        offset: float = 0.008,
        max_beta: float = 0.999,
        zero_terminal_snr: bool = False,
    ) -> None:
        def alpha_bar(t: Tensor) -> Tensor:
            return torch.cos((t + offset) / (1 + offset) * (math.pi / 2)).square()

        super().__init__(betas_of(alpha_bar, num_steps, max_beta), zero_terminal_snr)
