"""Guidance: binds conditions to `predict` and may mix several predictions into one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

from torch import Tensor

from diffusion_train.diffusion.process import Prediction
from diffusion_train.diffusion.schedule.base import Schedule

ConditionalPredict = Callable[..., Prediction]  # (xt (B, ...), t (B,), **cond) -> x0 and noise
Predict = Callable[[Tensor, Tensor], Prediction]  # (xt (B, ...), t (B,)) -> x0 and noise
Cond = dict[str, Tensor]  # name -> (B, ...)


class Guidance(ABC):
    """Turns a conditional prediction into the prediction that a sampler calls."""

    @abstractmethod
    def __call__(self, predict: ConditionalPredict, schedule: Schedule, cond: Cond, null: Cond) -> Predict:
        """Return the prediction for the sampler, which must keep xt = alpha * x0 + sigma * noise.

        `cond` and `null` hold tensors (B, ...) under the same names.
        """
