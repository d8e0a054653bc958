"""alpha-bar(t) = (S(end) - S(t * (end - start) + start)) / (S(end) - S(start)), S(x) = sigmoid(x / tau).

Jabri et al. 2022, "Scalable Adaptive Computation for Iterative Generation"; Chen 2023, "On the Importance of Noise
Scheduling for Diffusion Models", algorithm 1. Betas are clipped to `max_beta`, as in the cosine schedule.
"""

from __future__ import annotations

import torch
from torch import Tensor

from diffusion_train.diffusion.schedule.discrete import DiscreteSchedule, betas_of


class Sigmoid(DiscreteSchedule):
    """Sigmoid noise schedule of Jabri et al. (2022). Raises ValueError unless start < end and tau > 0."""

    def __init__(
        self,
        num_steps: int = 1000,
        start: float = -3.0,
        end: float = 3.0,
        tau: float = 1.0,
        max_beta: float = 0.999,
        zero_terminal_snr: bool = False,
    ) -> None:
        if not (start < end and tau > 0):
            raise ValueError(
                f"Sigmoid: start < end and tau > 0 must hold, got start={start:g}, end={end:g}, tau={tau:g}"
            )

        def alpha_bar(t: Tensor) -> Tensor:  # the constant denominator cancels in the ratios of neighbours
            x = torch.lerp(torch.full_like(t, start), torch.full_like(t, end), t)
            return torch.sigmoid(torch.full_like(t, end) / tau) - torch.sigmoid(x / tau)

        super().__init__(betas_of(alpha_bar, num_steps, max_beta), zero_terminal_snr)
