"""How much each noise level counts. Loss = W / det^2 * mse(output, target), for every parameterization the same loss.

The error of the predicted noise is alpha / det times the output's error and that of x0 is sigma / det times it, so
W = alpha^2 * (weight of the noise's error) = sigma^2 * (weight of x0's error), written so that nothing divides by a
vanishing alpha or sigma.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from diffusion_train.diffusion.parameterization import sigma_data_conflicts
from diffusion_train.diffusion.schedule.base import Schedule


class Weighting(ABC):
    @abstractmethod
    def __call__(self, alpha: Tensor, sigma: Tensor, det: Tensor) -> Tensor:
        """(B,) each -> W (B,)."""

    def conflicts(self, schedule: Schedule) -> list[str]:
        """Why this cannot be used with `schedule`, and what to do; empty where it can."""
        return []


class Noise(Weighting):
    """Plain MSE on the noise (Ho et al. 2020, equation 14)."""

    def __call__(self, alpha: Tensor, sigma: Tensor, det: Tensor) -> Tensor:
        return alpha.square()


class Output(Weighting):
    """Plain MSE on the network's own target: what papers mean by v-prediction and flow matching."""

    def __call__(self, alpha: Tensor, sigma: Tensor, det: Tensor) -> Tensor:
        return det.square()


class MinSNR(Weighting):
    """min(SNR, gamma) on x0 (Hang et al. 2023, "Efficient Diffusion Training via Min-SNR Weighting Strategy")."""

    def __init__(self, gamma: float = 5.0) -> None:
        self.gamma = _positive("MinSNR: gamma", gamma)

    def __call__(self, alpha: Tensor, sigma: Tensor, det: Tensor) -> Tensor:
        return torch.minimum(alpha.square(), self.gamma * sigma.square())


class SoftMinSNR(Weighting):
    """SNR * gamma / (SNR + gamma) on x0 (Crowson et al. 2024, "Hourglass Diffusion Transformers")."""

    def __init__(self, gamma: float = 4.0) -> None:
        self.gamma = _positive("SoftMinSNR: gamma", gamma)

    def __call__(self, alpha: Tensor, sigma: Tensor, det: Tensor) -> Tensor:
        signal, noise = alpha.square(), self.gamma * sigma.square()
        return signal * noise / (signal + noise)


class EDMWeight(Weighting):
    """lambda(s) = (s^2 + sigma_data^2) / (s * sigma_data)^2 on x0, s = sigma / alpha (Karras et al. 2022, table 1)."""

    def __init__(self, sigma_data: float = 0.5) -> None:
        self.sigma_data = _positive("EDMWeight: sigma_data", sigma_data)

    def __call__(self, alpha: Tensor, sigma: Tensor, det: Tensor) -> Tensor:
        return alpha.square() + (sigma / self.sigma_data).square()

    def conflicts(self, schedule: Schedule) -> list[str]:
        return sigma_data_conflicts("weighting", self.sigma_data, schedule)


class Velocity(Weighting):
    """(1 + sqrt(SNR))^power on x0, at most `max_weight`, whatever the network predicts.

    Power 2 is plain MSE on a flow's velocity (Liu et al. 2022), and with a network that predicts x0 the loss of Li and He
    2025, "Back to Basics: Let Denoising Generative Models Denoise" (who cap it at 400); power 0 is plain MSE on x0.
    """

    def __init__(self, power: float = 2.0, max_weight: float = 400.0) -> None:
        if not 0 <= power <= 2:
            raise ValueError(f"Velocity: power={power:g} must lie in [0, 2]")
        self.power = power
        self.max_weight = _positive("Velocity: max_weight", max_weight)

    def __call__(self, alpha: Tensor, sigma: Tensor, det: Tensor) -> Tensor:
        weight = sigma ** (2 - self.power) * (alpha + sigma) ** self.power
        return torch.minimum(weight, self.max_weight * sigma.square())


class P2(Weighting):
    """1 / (k + SNR)^gamma on the noise (Choi et al. 2022, "Perception Prioritized Training of Diffusion Models")."""

    def __init__(self, k: float = 1.0, gamma: float = 1.0) -> None:
        self.k = _positive("P2: k", k)
        self.gamma = _positive("P2: gamma", gamma)

    def __call__(self, alpha: Tensor, sigma: Tensor, det: Tensor) -> Tensor:
        fraction = sigma.square() / (self.k * sigma.square() + alpha.square())  # 1 / (k + SNR)
        return alpha.square() * fraction**self.gamma


class Debiased(Weighting):
    """1 / sqrt(SNR) on the noise (Yu et al. 2023, "Debias the Training of Diffusion Models")."""

    def __call__(self, alpha: Tensor, sigma: Tensor, det: Tensor) -> Tensor:
        return alpha * sigma


def _positive(name: str, value: float) -> float:
    if not value > 0:
        raise ValueError(f"{name}={value:g} must be positive")
    return value
