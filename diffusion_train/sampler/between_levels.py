"""Noise levels of a model's table as diffusers changes them, and those between them.

Index i is the time (i + 1) / N.
"""

from __future__ import annotations

import torch
from torch import Tensor

from diffusion_train.diffusion.schedule.base import Schedule
from diffusion_train.diffusion.schedule.discrete import DiscreteSchedule

_TERMINAL_ALPHA_BAR = (
    2**-24
)  # alphas_cumprod[-1] of diffusers' schedulers with zero terminal SNR; sigma / alpha is 4096


def finite_sigma(schedule: Schedule, num_levels: int) -> Schedule:
    """Return the schedule of N levels, with alpha-bar 2^-24 at t = 1 if it is 0 there.

    Raises ValueError if the schedule has no table of N levels.
    """
    table = table_of(schedule, num_levels)
    return table.with_terminal_alpha_bar(_TERMINAL_ALPHA_BAR) if table.zero_terminal_snr else table


class LinearSigma(Schedule):
    """A schedule of N levels with sigma / alpha linear in the index between them, as in EulerDiscreteScheduler.

    It is variance-preserving. Below the first level it is `schedule`. Raises ValueError if the schedule has no table
    of N levels.
    """

    def __init__(self, schedule: Schedule, num_levels: int) -> None:
        self.schedule = table_of(schedule, num_levels)
        self.t_min, self.zero_terminal_snr = schedule.t_min, schedule.zero_terminal_snr

    def alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        low, high, part = neighbours(self.schedule.label(t), self.schedule.num_steps)
        below, above = ((-self.schedule.log_snr(end) / 2).exp() for end in (low, high))
        ratio = torch.lerp(below, above, part)
        alpha = (1 + ratio.square()).rsqrt()
        plain = self.schedule.alpha_sigma(t)
        return torch.where(part < 0, plain[0], alpha), torch.where(part < 0, plain[1], ratio * alpha)

    def label(self, t: Tensor) -> Tensor:
        return self.schedule.label(t)


class LogSNRLabel(Schedule):
    """A schedule of N levels whose time label between them is linear in the log-SNR.

    With `whole` it is rounded to the nearest level, as in diffusers' multistep solvers with Karras levels. Raises
    ValueError if the schedule has no table of levels.
    """

    def __init__(self, schedule: Schedule, whole: bool) -> None:
        self.schedule, self.whole = table_of(schedule), whole
        self.t_min, self.zero_terminal_snr = schedule.t_min, schedule.zero_terminal_snr

    def alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return self.schedule.alpha_sigma(t)

    def label(self, t: Tensor) -> Tensor:
        low, high, _ = neighbours(self.schedule.label(t), self.schedule.num_steps)
        start, end = (self.schedule.log_snr(level) for level in (low, high))
        part = ((self.schedule.log_snr(t) - start) / (end - start)).clamp(0, 1)
        label = self.schedule.label(low) + part
        return label.round() if self.whole else label


def table_of(schedule: Schedule, num_levels: int | None = None) -> DiscreteSchedule:
    """Return `schedule`.

    Raises ValueError if it has no table of `num_levels` levels, or of any number if that is None.
    """
    if not isinstance(schedule, DiscreteSchedule):
        raise ValueError(  # noqa: TRY004
            f"sampler.grid: the grid of a pretrained model needs a schedule given by a table of betas, got "
            f"{type(schedule).__name__}; use the grid Uniform or Karras without `model`"
        )
    if num_levels not in (None, schedule.num_steps):
        raise ValueError(
            f"sampler.grid.num_levels={num_levels}: must be the schedule's num_steps; set it to {schedule.num_steps}"
        )
    return schedule


def neighbours(index: Tensor, num_levels: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the times of the levels below and above a fractional index (B,), and its fractional part, each (B,)."""
    low = index.floor().clamp(0, num_levels - 2)
    return (low + 1) / num_levels, (low + 2) / num_levels, index - low
