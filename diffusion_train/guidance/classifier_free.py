"""Classifier-free guidance.

Ho and Salimans 2022, "Classifier-Free Diffusion Guidance" (the paper's w is scale - 1).
Interval: Kynkäänniemi et al. 2024, "Applying Guidance in a Limited Interval".
Rescale: Lin et al. 2023, "Common Diffusion Noise Schedules and Sample Steps Are Flawed", equations 14 to 16.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from diffusion_train.diffusion.process import Prediction
from diffusion_train.diffusion.schedule.base import Schedule
from diffusion_train.guidance.base import Cond, ConditionalPredict, Guidance, Predict
from diffusion_train.utils.ranges import at_least
from diffusion_train.utils.tensor import expand


class ClassifierFree(Guidance):
    """Classifier-free guidance, null + scale * (cond - null): scale 1 is conditional, scale 0 unconditional.

    `interval` holds the first and last time t to guide at; outside of it the conditional prediction is used, at half
    the cost. `rescale` in [0, 1] moves the standard deviation of each row back to that of the conditional prediction:
    the deviation of v, as in the paper, whatever the network predicts, or with `rescale_of="noise"` that of the noise.
    diffusers rescales the network's output, so "noise" is its result for networks that predict the noise.
    """

    def __init__(
        self,
        scale: float,
        interval: Sequence[float] = (0.0, 1.0),
        rescale: float = 0.0,
        rescale_of: Literal["v", "noise"] = "v",
    ) -> None:
        at_least(None, **{"guidance.scale": scale})
        first, last = interval
        if not 0 <= first < last <= 1:
            raise ValueError(f"guidance.interval={[first, last]}: must be two increasing times in [0, 1]")
        if not 0 <= rescale <= 1:
            raise ValueError(f"guidance.rescale={rescale}: must be in [0, 1]")
        self.scale = scale
        self.interval = (first, last)
        if rescale_of not in ("v", "noise"):
            raise ValueError(
                f"guidance.rescale_of={rescale_of}: must be v or noise; "
                "use v, as in the paper, or noise, as in diffusers"
            )
        self.rescale, self.rescale_of = rescale, rescale_of

    def __call__(self, predict: ConditionalPredict, schedule: Schedule, cond: Cond, null: Cond) -> Predict:
        if self.rescale > 0 and self.rescale_of == "noise" and schedule.zero_terminal_snr:
            raise ValueError(
                "guidance.rescale_of=noise: cannot be used with a schedule of zero terminal SNR, where "
                "the noise does not determine the data; use v"
            )
        contrast = _with_contrast_of if self.rescale_of == "v" else _with_noise_deviation_of

        def guided(xt: Tensor, t: Tensor) -> Prediction:
            first, last = self.interval
            inside = (first <= t) & (t <= last)
            if self.scale == 1 or not cond or not inside.any():
                return predict(xt, t, **cond)
            positive, negative = _both(predict, xt, t, cond, null)
            p = _mix(negative, positive, self.scale)
            if self.rescale > 0:
                p = _mix(p, contrast(positive, p, xt, *schedule.alpha_sigma(t)), self.rescale)
            return p if inside.all() else _where(inside, p, positive)

        return guided


def _both(predict: ConditionalPredict, xt: Tensor, t: Tensor, cond: Cond, null: Cond) -> tuple[Prediction, Prediction]:
    """Return the predictions with and without the condition, from one forward pass of 2B rows."""
    joined = {name: torch.cat([cond[name], null[name]]) for name in cond}
    p = predict(torch.cat([xt, xt]), torch.cat([t, t]), **joined)
    (x0, x0_null), (noise, noise_null) = p.x0.chunk(2), p.noise.chunk(2)
    return Prediction(x0=x0, noise=noise), Prediction(x0=x0_null, noise=noise_null)


def _mix(p: Prediction, q: Prediction, weight: float) -> Prediction:
    """Return p + weight * (q - p); because the weights add up to 1, xt = alpha * x0 + sigma * noise still holds."""
    return Prediction(x0=p.x0 + weight * (q.x0 - p.x0), noise=p.noise + weight * (q.noise - p.noise))


def _where(rows: Tensor, p: Prediction, q: Prediction) -> Prediction:
    """Return p where rows (B,) is true, else q."""
    return Prediction(
        x0=torch.where(expand(rows, p.x0), p.x0, q.x0), noise=torch.where(expand(rows, p.noise), p.noise, q.noise)
    )


def _with_contrast_of(reference: Prediction, p: Prediction, xt: Tensor, alpha: Tensor, sigma: Tensor) -> Prediction:
    """Return p with v = alpha * noise - sigma * x0 of each row scaled to the reference's standard deviation of v."""
    alpha, sigma = expand(alpha, xt), expand(sigma, xt)
    v = alpha * p.noise - sigma * p.x0
    v_reference = alpha * reference.noise - sigma * reference.x0
    v = _with_deviation_of(v_reference, v)
    r2 = alpha**2 + sigma**2
    return Prediction(x0=(alpha * xt - sigma * v) / r2, noise=(sigma * xt + alpha * v) / r2)


def _with_noise_deviation_of(
    reference: Prediction, p: Prediction, xt: Tensor, alpha: Tensor, sigma: Tensor
) -> Prediction:
    """Return p with the noise of each row scaled to the reference's standard deviation of the noise."""
    noise = _with_deviation_of(reference.noise, p.noise)
    return Prediction(x0=(xt - expand(sigma, xt) * noise) / expand(alpha, xt), noise=noise)


def _with_deviation_of(reference: Tensor, values: Tensor) -> Tensor:
    """Return values (B, ...) with each row scaled to the reference's standard deviation; a constant row stays."""
    std, std_reference = (rows.flatten(1).std(1, correction=0) for rows in (values, reference))
    return values * expand(torch.where(std > 0, std_reference / std, 1.0), values)
