"""Noise schedules: xt = alpha(t) * x0 + sigma(t) * noise, t = 0 data, t = 1 noise.

A new schedule only needs `alpha_sigma`; all other methods have defaults that follow from it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor


class Schedule(ABC):
    """A noise schedule, without state. Times and results are (B,) float32.

    SNR = (alpha / sigma)^2 must strictly decrease with t.
    """

    t_min: float = 1e-3
    """The smallest time with a noise level; the last step of a sampler starts there or above, and ends at t = 0."""

    zero_terminal_snr: bool = False
    """Whether alpha(1) is exactly 0."""

    @abstractmethod
    def alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return alpha and sigma (B,) at t (B,) in [0, 1]; sigma(0) must be 0."""

    def label(self, t: Tensor) -> Tensor:
        """Return the time (B,) as the network receives it."""
        return 1000 * t.to(torch.float32)

    def log_snr(self, t: Tensor) -> Tensor:
        """Return ln(SNR) (B,): +inf at t = 0, and -inf at t = 1 if the terminal SNR is zero."""
        alpha, sigma = self.alpha_sigma(t)
        return 2 * (alpha.log() - sigma.log())

    def t_at(self, log_snr: Tensor) -> Tensor:
        """Return the times in [t_min, 1] with this log-SNR; values outside the schedule's range give the nearer end."""
        low = torch.full_like(log_snr, self.t_min, dtype=torch.float32)
        high = torch.ones_like(low)
        for _ in range(_NUM_HALVINGS):
            middle = (low + high) / 2
            noisier = self.log_snr(middle) <= log_snr
            low, high = torch.where(noisier, low, middle), torch.where(noisier, middle, high)
        return high


_NUM_HALVINGS = 34  # these narrow an interval of 1 to neighbouring float32 numbers at t = 1e-3


def wide(t: Tensor) -> Tensor:
    """Return t in float64; on the CPU if the device is MPS, which has no float64."""
    return t.to("cpu" if t.device.type == "mps" else t.device, torch.float64)
