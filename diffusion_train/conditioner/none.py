"""No condition."""

from __future__ import annotations

from typing import Any

from diffusion_train.conditioner.base import Cond, Conditioner


class NoCondition(Conditioner):
    """Returns no conditions, for unconditional models."""

    def forward(self, batch: dict[str, Any]) -> Cond:
        return {}
