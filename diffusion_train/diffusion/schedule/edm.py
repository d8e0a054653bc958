"""EDM: x0 + s * noise, scaled to unit variance: alpha = 1 / sqrt(s^2 + sigma_data^2), sigma = s * alpha.

Karras et al. 2022, "Elucidating the Design Space of Diffusion-Based Generative Models", table 1: alpha is the
paper's c_in, the label its c_noise. ln s is linear in t from t_min to 1, and s is linear in t from 0 to t_min.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from diffusion_train.diffusion.schedule.base import Schedule, wide


class EDM(Schedule):
    """EDM noise schedule of Karras et al. (2022). alpha(0) = 1 / sigma_data: a sample at t = 0 is x0 / sigma_data."""

    def __init__(self, sigma_min: float = 0.002, sigma_max: float = 80.0, sigma_data: float = 0.5) -> None:
        if not 0 < sigma_min < sigma_max:
            raise ValueError(
                f"EDM: 0 < sigma_min < sigma_max must hold, got sigma_min={sigma_min:g}, sigma_max={sigma_max:g}"
            )
        if not sigma_data > 0:
            raise ValueError(f"EDM: sigma_data={sigma_data:g} must be positive: it is the data's standard deviation")
        self.sigma_min = sigma_min
        self.sigma_max = sigma_max
        self.sigma_data = sigma_data

    def alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        s = self._s(t)
        alpha = 1 / torch.sqrt(s.square() + self.sigma_data**2)
        return alpha.to(t.device, torch.float32), (s * alpha).to(t.device, torch.float32)

    def label(self, t: Tensor) -> Tensor:
        return (self._s(t).log() / 4).to(t.device, torch.float32)

    def t_at(self, log_snr: Tensor) -> Tensor:
        part = (-wide(log_snr) / 2 - math.log(self.sigma_min)) / math.log(self.sigma_max / self.sigma_min)
        return (self.t_min + (1 - self.t_min) * part.clamp(0, 1)).to(log_snr.device, torch.float32)

    def _s(self, t: Tensor) -> Tensor:
        """Return the paper's sigma, in float64."""
        part = (wide(t) - self.t_min) / (1 - self.t_min)
        above = self.sigma_min * (self.sigma_max / self.sigma_min) ** part
        return torch.where(part >= 0, above, self.sigma_min * wide(t) / self.t_min)
