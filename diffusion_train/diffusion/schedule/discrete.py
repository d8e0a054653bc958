"""Schedules given by a table of N betas, as in DDPM (Ho et al. 2020): index i is the time t = (i + 1) / N.

alpha-bar_i = prod_{j <= i} (1 - beta_j);  alpha = sqrt(alpha-bar);  sigma = sqrt(1 - alpha-bar).
Between table points log alpha-bar is linear in t; it is 0 at t = 0.
Zero terminal SNR: Lin et al. 2023, "Common Diffusion Noise Schedules and Sample Steps are Flawed", algorithm 1.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import torch
from torch import Tensor

from diffusion_train.diffusion.schedule.base import Schedule, wide


class DiscreteSchedule(Schedule):
    """A variance-preserving schedule given by its betas. Raises ValueError for fewer than 2 or any outside (0, 1)."""

    def __init__(self, betas: Tensor, zero_terminal_snr: bool) -> None:
        """betas (N,) float64."""
        if len(betas) < 2:
            raise ValueError(f"{type(self).__name__}: num_steps={len(betas)} must be at least 2")
        if not bool(((betas > 0) & (betas < 1)).all()):
            low, high = betas.min().item(), betas.max().item()
            raise ValueError(f"{type(self).__name__}: betas must lie between 0 and 1, got {low:g} to {high:g}")
        self.num_steps = len(betas)
        self.t_min = 1 / len(betas)
        self.zero_terminal_snr = zero_terminal_snr
        log_alpha_bar = torch.log1p(-betas).cumsum(0)
        if zero_terminal_snr:
            log_alpha_bar = rescale_to_zero_terminal_snr(log_alpha_bar)
        table = torch.cat([torch.zeros(1, dtype=torch.float64), log_alpha_bar])
        self._tables = {table.device: table}  # (N + 1,) log alpha-bar at t = 0, 1/N, ..., 1; a copy per device

    def alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        log_alpha_bar = self._log_alpha_bar(t)
        alpha, sigma = torch.exp(log_alpha_bar / 2), torch.sqrt(-torch.expm1(log_alpha_bar))
        return alpha.to(t.device, torch.float32), sigma.to(t.device, torch.float32)

    def label(self, t: Tensor) -> Tensor:
        """Return the index (B,) in the table, which is fractional between table points."""
        return (self._position(t) - 1).to(t.device, torch.float32)

    def with_terminal_alpha_bar(self, alpha_bar: float) -> DiscreteSchedule:
        """Return this schedule with another alpha-bar at t = 1, above 0."""
        schedule = copy.copy(self)
        table = next(iter(self._tables.values())).clone()
        table[-1] = math.log(alpha_bar)
        schedule.zero_terminal_snr, schedule._tables = False, {table.device: table}
        return schedule

    def _log_alpha_bar(self, t: Tensor) -> Tensor:
        position = self._position(t)
        table = self._table(position.device)
        index = position.long().clamp(max=self.num_steps - 1)
        part, start, end = position - index, table[index], table[index + 1]
        # log alpha-bar is -inf where alpha = 0: in that last interval alpha itself is interpolated linearly
        return torch.where(end.isinf(), start + 2 * torch.log1p(-part), start + part * (end - start))

    def _position(self, t: Tensor) -> Tensor:
        """Return t * N in float64, rounded to a table point if t is within one float32 step of it."""
        position = wide(t) * self.num_steps
        nearest = position.round()
        return torch.where((position - nearest).abs() <= nearest * 2**-23, nearest, position)

    def _table(self, device: torch.device) -> Tensor:
        if device not in self._tables:
            self._tables[device] = next(iter(self._tables.values())).to(device)
        return self._tables[device]


def rescale_to_zero_terminal_snr(log_alpha_bar: Tensor) -> Tensor:
    """Shift alpha to end at 0 and scale it to keep its first value; takes and returns log alpha-bar (N,)."""
    alpha = torch.exp(log_alpha_bar / 2)
    return 2 * torch.log((alpha - alpha[-1]) * (alpha[0] / (alpha[0] - alpha[-1])))


def betas_of(alpha_bar: Callable[[Tensor], Tensor], num_steps: int, max_beta: float) -> Tensor:
    """Return betas (N,) in float64, at most max_beta, whose products follow alpha_bar(t) for t in [0, 1]."""
    levels = alpha_bar(torch.linspace(0, 1, num_steps + 1, dtype=torch.float64))
    return (1 - levels[1:] / levels[:-1]).clamp(max=max_beta)


def check_rising(beta_start: float, beta_end: float) -> None:
    """Raise ValueError if the noise of a step would become less with t."""
    if beta_start > beta_end:
        raise ValueError(
            f"diffusion.schedule: beta_start must be at most beta_end, got {beta_start:g} and {beta_end:g}"
        )
