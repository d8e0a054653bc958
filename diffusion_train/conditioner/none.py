"""No condition."""

from __future__ import annotations

from typing import Any

from diffusion_train.conditioner.base import Cond, Conditioner


class NoCondition(Conditioner):
    def forward(self, batch: dict[str, Any]) -> Cond:
        return {}
