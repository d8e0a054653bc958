"""Noise schedules: xt = alpha(t) * x0 + sigma(t) * noise, t = 0 data, t = 1 noise.

A new schedule needs `alpha_sigma` alone; the rest has defaults that follow from it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor


class Schedule(ABC):
    """Stateless; times and results are (B,) float32. SNR = (alpha / sigma)^2 falls strictly with t."""

    t_min: float = 1e-3
    """The smallest time that counts as a noise level; samplers step from there, or from above it, to t = 0."""

    zero_terminal_snr: bool = False
    """Whether alpha(1) is exactly 0."""

    @abstractmethod
    def alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """t in [0, 1] -> (alpha, sigma); sigma(0) = 0."""

    def label(self, t: Tensor) -> Tensor:
        """What the network receives as its time."""
        return 1000 * t.to(torch.float32)

    def log_snr(self, t: Tensor) -> Tensor:
        """+inf at t = 0; -inf at t = 1 where the terminal SNR is zero."""
        alpha, sigma = self.alpha_sigma(t)
        return 2 * (alpha.log() - sigma.log())

    def t_at(self, log_snr: Tensor) -> Tensor:
        """Inverse of `log_snr` within [t_min, 1]: levels outside give the nearer end."""
        low = torch.full_like(log_snr, self.t_min, dtype=torch.float32)
        high = torch.ones_like(low)
        for _ in range(_NUM_HALVINGS):
            middle = (low + high) / 2
            noisier = self.log_snr(middle) <= log_snr
            low, high = torch.where(noisier, low, middle), torch.where(noisier, middle, high)
        return high


_NUM_HALVINGS = 34  # from an interval of 1 to neighbouring float32 numbers at t = 1e-3


def wide(t: Tensor) -> Tensor:
    """The same times in float64, on the CPU where the device has none (Apple's)."""
    return t.to("cpu" if t.device.type == "mps" else t.device, torch.float64)
