"""Noise levels between those of a model's table, as diffusers computes them. Index i is the time (i + 1) / N."""

from __future__ import annotations

import torch
from torch import Tensor

from diffusion_train.diffusion.schedule.base import Schedule


class LinearSigma(Schedule):
    """A schedule of N levels with sigma / alpha linear in the index between them, as in EulerDiscreteScheduler.

    It is variance-preserving. Below the first level it is `schedule`.
    """

    def __init__(self, schedule: Schedule, num_levels: int) -> None:
        self.schedule, self.num_levels = schedule, num_levels
        self.t_min, self.zero_terminal_snr = schedule.t_min, schedule.zero_terminal_snr

    def alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        low, high, part = neighbours(self.schedule.label(t), self.num_levels)
        below, above = ((-self.schedule.log_snr(end) / 2).exp() for end in (low, high))
        ratio = torch.lerp(below, above, part)
        alpha = (1 + ratio.square()).rsqrt()
        plain = self.schedule.alpha_sigma(t)
        return torch.where(part < 0, plain[0], alpha), torch.where(part < 0, plain[1], ratio * alpha)

    def label(self, t: Tensor) -> Tensor:
        return self.schedule.label(t)


class LogSNRLabel(Schedule):
    """A schedule of N levels whose time label between them is linear in the log-SNR.

    With `whole` it is rounded to the nearest level, as in diffusers' multistep solvers with Karras levels.
    """

    def __init__(self, schedule: Schedule, num_levels: int, whole: bool) -> None:
        self.schedule, self.num_levels, self.whole = schedule, num_levels, whole
        self.t_min, self.zero_terminal_snr = schedule.t_min, schedule.zero_terminal_snr

    def alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return self.schedule.alpha_sigma(t)

    def label(self, t: Tensor) -> Tensor:
        low, high, _ = neighbours(self.schedule.label(t), self.num_levels)
        start, end = (self.schedule.log_snr(level) for level in (low, high))
        part = ((self.schedule.log_snr(t) - start) / (end - start)).clamp(0, 1)
        label = self.schedule.label(low) + part
        return label.round() if self.whole else label


def neighbours(index: Tensor, num_levels: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the times of the levels below and above a fractional index (B,), and its fractional part, each (B,)."""
    low = index.floor().clamp(0, num_levels - 2)
    return (low + 1) / num_levels, (low + 2) / num_levels, index - low
