"""Gaussian diffusion for any shape: mix data and noise, split a network's output, and weigh its error.

xt = alpha * x0 + sigma * noise;   target = a * x0 + b * noise;   det = alpha * b - sigma * a
x0 = (b * xt - sigma * output) / det;   noise = (alpha * output - a * xt) / det
loss = W / det^2 * mse(output, target);   mse of the predicted noise = (alpha / det)^2 * mse(output, target)

Offset noise: Guttenberg 2023, "Diffusion with Offset Noise".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from diffusion_train.diffusion.parameterization import Parameterization
from diffusion_train.diffusion.schedule.base import Schedule
from diffusion_train.diffusion.time_sampler import TimeSampler
from diffusion_train.diffusion.weighting import Weighting
from diffusion_train.utils.rng import Rng
from diffusion_train.utils.tensor import expand, row_mean

Network = Callable[..., Tensor]


@dataclass(frozen=True)
class Prediction:
    """Both (B, ...)."""

    x0: Tensor
    noise: Tensor


@dataclass(frozen=True)
class Loss:
    """Each (B,). `loss` is weighted and carries gradients; `noise_mse`, of the predicted noise, does neither."""

    loss: Tensor
    noise_mse: Tensor
    t: Tensor


class GaussianDiffusion:
    """`offset_noise` adds so much noise of one value a channel (axis 1) in training.

    Errors: ValueError naming every pair of parts that does not fit together.
    """

    def __init__(
        self,
        schedule: Schedule,
        parameterization: Parameterization,
        weighting: Weighting,
        time_sampler: TimeSampler,
        offset_noise: float = 0.0,
    ) -> None:
        conflicts = [line for part in (parameterization, weighting, time_sampler) for line in part.conflicts(schedule)]
        if not offset_noise >= 0:
            conflicts.append(f"diffusion.offset_noise={offset_noise:g} must be at least 0; 0 is none")
        if conflicts:
            raise ValueError("\n".join(conflicts))
        self.schedule = schedule
        self.parameterization = parameterization
        self.weighting = weighting
        self.time_sampler = time_sampler
        self.offset_noise = offset_noise

    def loss(self, network: Network, x0: Tensor, rng: Rng, **cond: Tensor) -> Loss:
        """x0 (B, ...); times and noise come from `rng` alone."""
        t = self.time_sampler.draw(rng, x0.device)
        return self.loss_at(network, x0, self._draw_noise(x0, rng), t, **cond)

    def loss_at(self, network: Network, x0: Tensor, noise: Tensor, t: Tensor, **cond: Tensor) -> Loss:
        """The loss for given noise (B, ...) and t (B,)."""
        alpha, sigma, _, _, det = (values.to(_at_least_float32(x0)) for values in self._mix(t))
        output = network(self.add_noise(x0, noise, t).to(x0.dtype), self.schedule.label(t), **cond)
        mse = row_mean((_checked(output, x0) - self.target(x0, noise, t)).square())
        loss = self.weighting(alpha, sigma, det) / det.square() * mse
        return Loss(loss, ((alpha / det).square() * mse).detach(), t)

    def predict(self, network: Network, xt: Tensor, t: Tensor, **cond: Tensor) -> Prediction:
        """xt (B, ...), t (B,) above 0."""
        return self.split(network(xt, self.schedule.label(t), **cond), xt, t)

    def add_noise(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = self.schedule.alpha_sigma(t)
        return expand(alpha, x0) * x0 + expand(sigma, x0) * noise

    def target(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """What the network should answer at (xt, t)."""
        a, b = self.parameterization.coefficients(*self.schedule.alpha_sigma(t))
        return expand(a, x0) * x0 + expand(b, x0) * noise

    def split(self, output: Tensor, xt: Tensor, t: Tensor) -> Prediction:
        """The data and the noise that `output` and `xt` (B, ...) agree on."""
        alpha, sigma, a, b, det = (expand(values, xt) for values in self._mix(t))
        output = _checked(output, xt)
        return Prediction(x0=(b * xt - sigma * output) / det, noise=(alpha * output - a * xt) / det)

    def _mix(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """(alpha, sigma, a, b, det), each (B,)."""
        alpha, sigma = self.schedule.alpha_sigma(t)
        a, b = self.parameterization.coefficients(alpha, sigma)
        return alpha, sigma, a, b, alpha * b - sigma * a

    def _draw_noise(self, x0: Tensor, rng: Rng) -> Tensor:
        noise = rng.normal("noise", x0.shape[1:], x0.device)
        if self.offset_noise > 0:
            one_a_channel = (*x0.shape[1:2], *[1] * (x0.ndim - 2))
            noise = noise + self.offset_noise * rng.normal("offset_noise", one_a_channel, x0.device)
        return noise


def _checked(output: Tensor, like: Tensor) -> Tensor:
    """The network's output in float32 at least."""
    if output.shape != like.shape:
        raise ValueError(f"network returned shape {tuple(output.shape)}, expected {tuple(like.shape)}")
    return output.to(_at_least_float32(output))


def _at_least_float32(like: Tensor) -> torch.dtype:
    return torch.promote_types(like.dtype, torch.float32)
