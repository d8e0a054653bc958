"""What the network predicts: target = a * x0 + b * noise, so a parameterization is a pair of numbers (a, b).

With xt = alpha * x0 + sigma * noise, det = alpha * b - sigma * a says whether an output can be split into (x0, noise).
Epsilon: Ho et al. 2020. V: Salimans & Ho 2022. Flow: Liu et al. 2022. EDM: Karras et al. 2022, table 1.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from diffusion_train.diffusion.schedule.base import Schedule
from diffusion_train.diffusion.schedule.edm import EDM


class Parameterization(ABC):
    @abstractmethod
    def coefficients(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """alpha, sigma (B,) -> a, b (B,)."""

    def conflicts(self, schedule: Schedule) -> list[str]:
        """Why this cannot be used with `schedule`, and what to do; empty where it can."""
        return []


class Epsilon(Parameterization):
    """The noise. det = alpha, so alpha may not reach 0."""

    def coefficients(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(alpha), torch.ones_like(alpha)

    def conflicts(self, schedule: Schedule) -> list[str]:
        if not schedule.zero_terminal_snr:
            return []
        conflict = (
            f"parameterization Epsilon with schedule {type(schedule).__name__} of zero terminal SNR: at t = 1 the noise "
            "says nothing about x0; choose diffusion/parameterization=v (or flow, x0), or another schedule"
        )
        return [conflict]


class X0(Parameterization):
    """The data. det = -sigma."""

    def coefficients(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones_like(alpha), torch.zeros_like(alpha)


class V(Parameterization):
    """det = alpha^2 + sigma^2."""

    def coefficients(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        return -sigma, alpha


class Flow(Parameterization):
    """The velocity from data to noise. det = alpha + sigma."""

    def coefficients(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        return -torch.ones_like(alpha), torch.ones_like(alpha)


class EDMPrediction(Parameterization):
    """Their F, in D = c_skip * x + c_out * F, with any schedule. det = -sqrt(sigma^2 + sigma_data^2 * alpha^2) / sigma_data.

    F is x0 / sigma_data where noise prevails and the noise, negated, where data prevails.
    """

    def __init__(self, sigma_data: float = 0.5) -> None:
        if not sigma_data > 0:
            raise ValueError(f"EDMPrediction: sigma_data={sigma_data:g} must be positive")
        self.sigma_data = sigma_data

    def coefficients(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        norm = torch.sqrt(sigma.square() + (self.sigma_data * alpha).square())  # 1 with the EDM schedule
        return sigma / (self.sigma_data * norm), -self.sigma_data * alpha / norm

    def conflicts(self, schedule: Schedule) -> list[str]:
        return sigma_data_conflicts("parameterization", self.sigma_data, schedule)


def sigma_data_conflicts(part: str, sigma_data: float, schedule: Schedule) -> list[str]:
    """One fact in two places: the EDM schedule and the parts that follow it must name the same sigma_data."""
    if not isinstance(schedule, EDM) or schedule.sigma_data == sigma_data:
        return []
    conflict = (
        f"diffusion.{part}.sigma_data={sigma_data:g} with diffusion.schedule.sigma_data={schedule.sigma_data:g}: "
        f"set the schedule's, and leave the {part}'s to follow it"
    )
    return [conflict]
