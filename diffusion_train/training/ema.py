"""Exponential moving averages of the trained weights: float32 shadows, several decays at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class EMA:
    """Averages with decay `min(decay, (1 + k) / (10 + k))` at step k, so that a short run forgets its start.

    The first decay is the one that is sampled from and written to weights.safetensors.
    """

    def __init__(self, decays: Sequence[float] = (0.9999,)) -> None:
        if not decays or not all(0 <= decay < 1 for decay in decays):
            raise ValueError(f"ema.decays={list(decays)}: give one or more numbers in [0, 1), for example [0.999]")
        self.decays = [float(decay) for decay in decays]
        self._parameters: dict[str, nn.Parameter] = {}
        self._shadows: list[dict[str, Tensor]] = []

    def attach(self, network: nn.Module) -> None:
        """Starts averaging the parameters that require a gradient, from loaded averages where there are any."""
        self._parameters = {name: p for name, p in network.named_parameters() if p.requires_grad}
        if not self._shadows:
            self._shadows = [
                {name: p.detach().to(_wide(p), copy=True) for name, p in self._parameters.items()} for _ in self.decays
            ]
        for shadow in self._shadows:
            if shadow.keys() != self._parameters.keys():
                raise ValueError("the saved EMA averages other parameters than the network trains")
            for name, p in self._parameters.items():
                shadow[name] = shadow[name].to(p.device, _wide(p))

    @torch.no_grad()
    def update(self, step: int, stepped: Tensor) -> None:
        """Moves the averages toward the weights after optimizer step `step` (from 1), unless `stepped` () is false."""
        for decay, shadow in zip(self.decays, self._shadows, strict=True):
            averages = list(shadow.values())
            share = (stepped * (1 - min(decay, (1 + step) / (10 + step)))).to(averages[0])
            weights = [p.detach().to(shadow[name].dtype) for name, p in self._parameters.items()]
            moves = torch._foreach_sub(weights, averages)
            torch._foreach_mul_(moves, share)
            torch._foreach_add_(averages, moves)

    @contextmanager
    def averaged(self, number: int = 0) -> Iterator[None]:
        """The network holds average `number` inside the block and its own weights again after it, whatever happens."""
        own = {name: p.detach().clone() for name, p in self._parameters.items()}
        try:
            self._copy(self._shadows[number])
            yield
        finally:
            self._copy(own)

    def average(self, number: int = 0) -> dict[str, Tensor]:
        return self._shadows[number]

    @torch.no_grad()
    def _copy(self, weights: dict[str, Tensor]) -> None:
        for name, p in self._parameters.items():
            p.copy_(weights[name])

    def state_dict(self) -> dict[str, Any]:
        return {"decays": self.decays, "averages": self._shadows}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state["decays"] != self.decays:
            raise ValueError(f"ema.decays={self.decays}: the checkpoint was averaged with {state['decays']}; give those")
        self._shadows = [dict(shadow) for shadow in state["averages"]]


def _wide(tensor: Tensor) -> torch.dtype:
    """float32 at least: an average in bfloat16 never moves at decay 0.99 and above."""
    return torch.promote_types(tensor.dtype, torch.float32)
