"""Stable Diffusion's schedule: the square roots of the betas are linear in t (code of Rombach et al. 2022)."""

from __future__ import annotations

import torch

from diffusion_train.diffusion.schedule.discrete import DiscreteSchedule, check_rising


class ScaledLinear(DiscreteSchedule):
    """Noise schedule whose `num_steps` betas rise from `beta_start` to `beta_end`, linearly in their square roots."""

    def __init__(
        self,
        num_steps: int = 1000,
        beta_start: float = 0.00085,
        beta_end: float = 0.012,
        zero_terminal_snr: bool = False,
    ) -> None:
        if beta_start <= 0 or beta_end <= 0:
            raise ValueError(f"ScaledLinear: beta_start={beta_start:g}, beta_end={beta_end:g} must lie between 0 and 1")
        check_rising(beta_start, beta_end)
        roots = torch.linspace(beta_start**0.5, beta_end**0.5, num_steps, dtype=torch.float64)
        super().__init__(roots.square(), zero_terminal_snr)
