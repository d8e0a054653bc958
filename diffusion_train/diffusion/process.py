"""Gaussian diffusion of data of any shape: mixes data and noise, splits a network's output, and weights its error.

xt = alpha * x0 + sigma * noise;   target = a * x0 + b * noise;   det = alpha * b - sigma * a
x0 = (b * xt - sigma * output) / det;   noise = (alpha * output - a * xt) / det
loss = W / det^2 * mse(output, target);   mse of the predicted noise = (alpha / det)^2 * mse(output, target)

Offset noise: Guttenberg 2023, "Diffusion with Offset Noise".
"""

from __future__ import annotations

import copy
import math
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
    """The data and the noise that a network's output stands for, both (B, ...)."""

    x0: Tensor
    noise: Tensor


@dataclass(frozen=True)
class Loss:
    """The loss of each row, each field (B,).

    `loss` is weighted and carries gradients. `noise_mse`, the error of the predicted noise, is unweighted and detached.
    """

    loss: Tensor
    noise_mse: Tensor
    t: Tensor


class GaussianDiffusion:
    """The diffusion process: a schedule, a parameterization, a loss weighting and a time sampler.

    `offset_noise` scales additional training noise that is constant over each channel (axis 1). Raises ValueError that
    lists every pair of parts that do not fit together.
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
        if not 0 <= offset_noise < math.inf:
            conflicts.append(f"diffusion.offset_noise={offset_noise:g}: must be a finite number of at least 0; use 0")
        if conflicts:
            raise ValueError("\n".join(conflicts))
        self.schedule = schedule
        self.parameterization = parameterization
        self.weighting = weighting
        self.time_sampler = time_sampler.on(schedule)
        self.offset_noise = offset_noise

    def notes(self) -> list[str]:
        """Return what is allowed but may be unwanted in training, each with its remedy."""
        alpha, sigma, _, _, det = self._mix(torch.ones(1))
        if not self.schedule.zero_terminal_snr or self.weighting(alpha, sigma, det).item() != 0:
            return []
        note = (
            f"weighting {type(self.weighting).__name__} is 0 at t = 1, because schedule "
            f"{type(self.schedule).__name__} has zero terminal SNR, so the prediction of the first sampling step "
            "is not trained; use diffusion/weighting=output (or edm, velocity)"
        )
        return [note]

    def loss(self, network: Network, x0: Tensor, rng: Rng, **cond: Tensor) -> Loss:
        """Return the training loss of x0 (B, ...); all randomness comes from `rng`."""
        t = self.time_sampler.draw(rng, x0.device)
        return self.loss_at(network, x0, self._draw_noise(x0, rng), t, **cond)

    def loss_at(self, network: Network, x0: Tensor, noise: Tensor, t: Tensor, **cond: Tensor) -> Loss:
        """Return the loss of x0 (B, ...) for the given noise (B, ...) and t (B,)."""
        alpha, sigma, _, _, det = (values.to(_at_least_float32(x0)) for values in self._mix(t))
        output = network(self.add_noise(x0, noise, t).to(x0.dtype), self.schedule.label(t), **cond)
        mse = row_mean((_checked(output, x0) - self.target(x0, noise, t)).square())
        loss = self.weighting(alpha, sigma, det) / det.square() * mse
        return Loss(loss, ((alpha / det).square() * mse).detach(), t)

    def on(self, schedule: Schedule) -> GaussianDiffusion:
        """Return this process with another schedule, to sample with."""
        process = copy.copy(self)
        process.schedule = schedule
        return process

    def predict(self, network: Network, xt: Tensor, t: Tensor, **cond: Tensor) -> Prediction:
        """Run the network on xt (B, ...) at t (B,), which must be above 0, and split its output."""
        return self.split(network(xt, self.schedule.label(t), **cond), xt, t)

    def add_noise(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return xt = alpha * x0 + sigma * noise, all (B, ...), at t (B,)."""
        alpha, sigma = self.schedule.alpha_sigma(t)
        return expand(alpha, x0) * x0 + expand(sigma, x0) * noise

    def target(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return what the network should predict from xt at t (B,): a * x0 + b * noise (B, ...)."""
        a, b = self.parameterization.coefficients(*self.schedule.alpha_sigma(t))
        return expand(a, x0) * x0 + expand(b, x0) * noise

    def split(self, output: Tensor, xt: Tensor, t: Tensor) -> Prediction:
        """Solve output = a * x0 + b * noise and xt = alpha * x0 + sigma * noise, all (B, ...), for x0 and noise."""
        alpha, sigma, a, b, det = (expand(values, xt) for values in self._mix(t))
        output = _checked(output, xt)
        return Prediction(x0=(b * xt - sigma * output) / det, noise=(alpha * output - a * xt) / det)

    def _mix(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Return (alpha, sigma, a, b, det), each (B,)."""
        alpha, sigma = self.schedule.alpha_sigma(t)
        a, b = self.parameterization.coefficients(alpha, sigma)
        return alpha, sigma, a, b, alpha * b - sigma * a

    def _draw_noise(self, x0: Tensor, rng: Rng) -> Tensor:
        noise = rng.normal("noise", x0.shape[1:], x0.device)
        if self.offset_noise > 0:
            per_channel = (*x0.shape[1:2], *[1] * (x0.ndim - 2))
            noise = noise + self.offset_noise * rng.normal("offset_noise", per_channel, x0.device)
        return noise


def _checked(output: Tensor, like: Tensor) -> Tensor:
    """Return the network's output in at least float32; ValueError unless it has the shape of `like`."""
    if output.shape != like.shape:
        raise ValueError(f"the network returned shape {tuple(output.shape)}, expected {tuple(like.shape)}")
    return output.to(_at_least_float32(output))


def _at_least_float32(like: Tensor) -> torch.dtype:
    return torch.promote_types(like.dtype, torch.float32)
