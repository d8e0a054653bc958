"""No guidance: the plain conditional prediction."""

from __future__ import annotations

from torch import Tensor

from diffusion_train.diffusion.process import Prediction
from diffusion_train.diffusion.schedule.base import Schedule
from diffusion_train.guidance.base import Cond, ConditionalPredict, Guidance, Predict


class NoGuidance(Guidance):
    """The conditional prediction, unchanged."""

    def __call__(self, predict: ConditionalPredict, schedule: Schedule, cond: Cond, null: Cond) -> Predict:
        def conditional(xt: Tensor, t: Tensor) -> Prediction:
            return predict(xt, t, **cond)

        return conditional
