"""What the network predicts: target = a * x0 + b * noise, so a parameterization is a pair of numbers (a, b).

With xt = alpha * x0 + sigma * noise, let det = alpha * b - sigma * a. An output can be split into (x0, noise) if det is
not 0.
Epsilon: Ho et al. 2020. V: Salimans & Ho 2022. Flow: Liu et al. 2022. EDM: Karras et al. 2022, table 1.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from diffusion_train.diffusion.schedule.base import Schedule
from diffusion_train.diffusion.schedule.edm import EDM


class Parameterization(ABC):
    """The target of a network, as the pair (a, b) of target = a * x0 + b * noise."""

    @abstractmethod
    def coefficients(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """Return a and b (B,) for alpha and sigma (B,)."""

    def conflicts(self, schedule: Schedule) -> list[str]:
        """Return why this part cannot be used with `schedule`, each with its remedy; empty if it can."""
        return []


class Epsilon(Parameterization):
    """The network predicts the noise. det = alpha, so alpha must not reach 0."""

    def coefficients(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(alpha), torch.ones_like(alpha)

    def conflicts(self, schedule: Schedule) -> list[str]:
        if not schedule.zero_terminal_snr:
            return []
        conflict = (
            f"parameterization Epsilon cannot be used with schedule {type(schedule).__name__}, which has zero terminal "
            "SNR: at t = 1, x0 cannot be computed from the predicted noise; use diffusion/parameterization=v "
            "(or flow, x0), or another schedule"
        )
        return [conflict]


class X0(Parameterization):
    """The network predicts the data. det = -sigma."""

    def coefficients(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones_like(alpha), torch.zeros_like(alpha)


class V(Parameterization):
    """The network predicts alpha * noise - sigma * x0. det = alpha^2 + sigma^2."""

    def coefficients(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        return -sigma, alpha


class Flow(Parameterization):
    """The network predicts the velocity from data to noise, noise - x0. det = alpha + sigma."""

    def coefficients(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        return -torch.ones_like(alpha), torch.ones_like(alpha)


class EDMPrediction(Parameterization):
    """The network predicts F of D = c_skip * x + c_out * F (Karras et al. 2022), with any schedule.

    det = -sqrt(sigma^2 + sigma_data^2 * alpha^2) / sigma_data. F tends to x0 / sigma_data at high noise and to -noise
    at low noise.
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
    """Return a conflict if `schedule` is EDM and has another sigma_data than `part` (weighting or parameterization)."""
    if not isinstance(schedule, EDM) or schedule.sigma_data == sigma_data:
        return []
    conflict = (
        f"diffusion.{part}.sigma_data={sigma_data:g} with diffusion.schedule.sigma_data={schedule.sigma_data:g}: "
        "they must be equal; set only diffusion.schedule.sigma_data, which the other follows by default"
    )
    return [conflict]
