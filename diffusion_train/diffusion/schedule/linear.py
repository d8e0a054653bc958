"""DDPM's schedule: betas linear in t (Ho et al. 2020, "Denoising Diffusion Probabilistic Models", section 4)."""

from __future__ import annotations

import torch

from diffusion_train.diffusion.schedule.discrete import DiscreteSchedule, check_rising


class Linear(DiscreteSchedule):
    """Noise schedule whose `num_steps` betas rise linearly from `beta_start` to `beta_end`."""

    def __init__(
        self,
        num_steps: int = 1000,
        beta_start: float = 1e-4,
        beta_end: float = 0.02,
        zero_terminal_snr: bool = False,
    ) -> None:
        check_rising(beta_start, beta_end)
        super().__init__(torch.linspace(beta_start, beta_end, num_steps, dtype=torch.float64), zero_terminal_snr)
