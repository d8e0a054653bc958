"""Loss weightings: W / det^2 * mse(output, target) is the same loss for every parameterization.

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
    """Weight W of each noise level in the loss W / det^2 * mse(output, target)."""

    @abstractmethod
    def __call__(self, alpha: Tensor, sigma: Tensor, det: Tensor) -> Tensor:
        """Return W (B,) for alpha, sigma and det (B,)."""

    def conflicts(self, schedule: Schedule) -> list[str]:
        """Return why this part cannot be used with `schedule`, each with its remedy; empty if it can."""
        return []


class Noise(Weighting):
    """Plain MSE on the noise (Ho et al. 2020, equation 14)."""

    def __call__(self, alpha: Tensor, sigma: Tensor, det: Tensor) -> Tensor:
        return alpha.square()


class Output(Weighting):
    """Plain MSE on the network's target, as in papers on v-prediction and flow matching."""

    def __call__(self, alpha: Tensor, sigma: Tensor, det: Tensor) -> Tensor:
        return det.square()


class MinSNR(Weighting):
    """Weight min(SNR, gamma) on the x0 error.

    Hang et al. 2023, "Efficient Diffusion Training via Min-SNR Weighting Strategy".
    """

    def __init__(self, gamma: float = 5.0) -> None:
        self.gamma = _positive("MinSNR: gamma", gamma)

    def __call__(self, alpha: Tensor, sigma: Tensor, det: Tensor) -> Tensor:
        return torch.minimum(alpha.square(), self.gamma * sigma.square())


class SoftMinSNR(Weighting):
    """Weight SNR * gamma / (SNR + gamma) on the x0 error (Crowson et al. 2024, "Hourglass Diffusion Transformers")."""

    def __init__(self, gamma: float = 4.0) -> None:
        self.gamma = _positive("SoftMinSNR: gamma", gamma)

    def __call__(self, alpha: Tensor, sigma: Tensor, det: Tensor) -> Tensor:
        signal, noise = alpha.square(), self.gamma * sigma.square()
        return signal * noise / (signal + noise)


class EDMWeight(Weighting):
    """Weight (s^2 + sigma_data^2) / (s * sigma_data)^2, s = sigma / alpha, on the x0 error (Karras et al. 2022)."""

    def __init__(self, sigma_data: float = 0.5) -> None:
        self.sigma_data = _positive("EDMWeight: sigma_data", sigma_data)

    def __call__(self, alpha: Tensor, sigma: Tensor, det: Tensor) -> Tensor:
        return alpha.square() + (sigma / self.sigma_data).square()

    def conflicts(self, schedule: Schedule) -> list[str]:
        return sigma_data_conflicts("weighting", self.sigma_data, schedule)


class Velocity(Weighting):
    """Weight min((1 + sqrt(SNR))^power, max_weight) on the x0 error, whatever the network predicts.

    Power 2 is plain MSE on a flow's velocity (Liu et al. 2022). With a network that predicts x0 it is the loss of Li
    and He 2025, "Back to Basics: Let Denoising Generative Models Denoise", who cap it at 400. Power 0 is plain MSE on
    x0.
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
    """Weight 1 / (k + SNR)^gamma on the noise error.

    Choi et al. 2022, "Perception Prioritized Training of Diffusion Models".
    """

    def __init__(self, k: float = 1.0, gamma: float = 1.0) -> None:
        self.k = _positive("P2: k", k)
        self.gamma = _positive("P2: gamma", gamma)

    def __call__(self, alpha: Tensor, sigma: Tensor, det: Tensor) -> Tensor:
        fraction = sigma.square() / (self.k * sigma.square() + alpha.square())  # 1 / (k + SNR)
        return alpha.square() * fraction**self.gamma


class Debiased(Weighting):
    """Weight 1 / sqrt(SNR) on the noise error (Yu et al. 2023, "Debias the Training of Diffusion Models")."""

    def __call__(self, alpha: Tensor, sigma: Tensor, det: Tensor) -> Tensor:
        return alpha * sigma


def _positive(name: str, value: float) -> float:
    if not value > 0:
        raise ValueError(f"{name}={value:g} must be positive")
    return value
