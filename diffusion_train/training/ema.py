"""Exponential moving averages (EMA) of the trained weights, several at once, in float32."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

Profile = Callable[[int], float]  # step (from 1) -> decay

_PIECE = 2**28  # bytes of averages that are updated at once


def constant(decays: Sequence[float] = (0.9999,)) -> EMA:
    """Return an EMA with decay min(decay, (1 + k) / (10 + k)) at step k, so that a short run forgets its start."""
    if not decays or not all(0 <= decay < 1 for decay in decays):
        raise ValueError(f"ema.decays={list(decays)}: give one or more numbers in [0, 1), for example [0.999]")

    def profile(decay: float) -> Profile:
        return lambda step: min(decay, (1 + step) / (10 + step))

    return EMA({f"{decay:g}": profile(decay) for decay in decays})


def power(relative_stds: Sequence[float] = (0.1,)) -> EMA:
    """Return an EMA whose averages span a fixed fraction of the run, whenever it is stopped.

    Step k has the weight k^gamma; `relative_stds` are the standard deviations of that profile, as fractions of the run.
    Karras et al. 2024, "Analyzing and Improving the Training Dynamics of Diffusion Models", equations 1 to 3.
    """
    if not relative_stds or not all(0 < std < 0.28 for std in relative_stds):
        raise ValueError(
            f"ema.relative_stds={list(relative_stds)}: give one or more numbers in (0, 0.28), such as [0.1]"
        )

    def profile(std: float) -> Profile:
        gamma = max(np.roots([1, 7, 16 - std**-2, 12 - std**-2]).real)
        return lambda step: float((1 - 1 / step) ** (gamma + 1))

    return EMA({f"power_{std:g}": profile(std) for std in relative_stds})


class EMA:
    """Holds one average per profile. The first is used for sampling and written to weights.safetensors."""

    def __init__(self, profiles: Mapping[str, Profile]) -> None:
        self.profiles = dict(profiles)
        self._parameters: dict[str, nn.Parameter] = {}
        self._shadows: list[dict[str, Tensor]] = [{} for _ in self.profiles]

    @property
    def names(self) -> list[str]:
        return list(self.profiles)

    def attach(self, network: nn.Module) -> None:
        """Start to average the parameters that require a gradient; loaded averages are continued.

        Raises ValueError if loaded averages have other parameters.
        """
        self._parameters = {name: p for name, p in network.named_parameters() if p.requires_grad}
        self._shadows = [
            shadow or {name: p.detach().to(_wide(p), copy=True) for name, p in self._parameters.items()}
            for shadow in self._shadows
        ]
        for shadow in self._shadows:
            if shadow.keys() != self._parameters.keys():
                raise ValueError("the saved EMA does not have the same parameters as the network trains")
            for name, p in self._parameters.items():
                shadow[name] = shadow[name].to(p.device, _wide(p))

    @torch.no_grad()
    def update(self, step: int, stepped: Tensor) -> None:
        """Update the averages after optimizer step `step` (from 1), unless the scalar tensor `stepped` is false."""
        for decay, shadow in zip(self.profiles.values(), self._shadows, strict=True):
            weights = [p.detach().to(shadow[name].dtype) for name, p in self._parameters.items()]
            _move(list(shadow.values()), weights, stepped * (1 - decay(step)))

    @contextmanager
    def averaged(self, number: int = 0) -> Iterator[None]:
        """Give the network the weights of average `number` inside the block, and its own after it, even on errors."""
        own = {name: p.detach().clone() for name, p in self._parameters.items()}
        try:
            self._copy(self._shadows[number])
            yield
        finally:
            self._copy(own)

    def average(self, number: int = 0) -> dict[str, Tensor]:
        """Return average `number` by parameter name; the tensors are those that `update` changes."""
        return self._shadows[number]

    @torch.no_grad()
    def _copy(self, weights: dict[str, Tensor]) -> None:
        for name, p in self._parameters.items():
            p.copy_(weights[name])

    def state_dict(self) -> dict[str, Any]:
        return {"names": self.names, "averages": self._shadows}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue the averages of the same name; others start from the weights, with a warning."""
        saved = dict(zip(state["names"], state["averages"], strict=True))
        self._shadows = [dict(saved.get(name, {})) for name in self.names]
        if new := [name for name in self.names if name not in saved]:
            warnings.warn(
                f"ema: the checkpoint has only the averages {state['names']}; these start from the current weights: "
                f"{', '.join(new)}",
                stacklevel=1,
            )


def _move(averages: list[Tensor], weights: list[Tensor], fraction: Tensor) -> None:
    """Add fraction * (weights - averages) to the averages, without a GPU synchronization for the scalar `fraction`."""
    if fraction.device.type == "cpu":
        torch._foreach_lerp_(averages, weights, float(fraction))
        return
    for indices in _pieces(averages):
        some = [averages[index] for index in indices]
        moves = torch._foreach_sub([weights[index] for index in indices], some)
        torch._foreach_mul_(moves, fraction.to(moves[0]))
        torch._foreach_add_(some, moves)


def _pieces(tensors: Sequence[Tensor]) -> Iterator[list[int]]:
    """Yield indices of consecutive tensors of up to 256 MB together; a copy of all weights might not fit in memory."""
    piece, room = list[int](), _PIECE
    for index, tensor in enumerate(tensors):
        if piece and tensor.nbytes > room:
            yield piece
            piece, room = [], _PIECE
        piece.append(index)
        room -= tensor.nbytes
    yield piece


def _wide(tensor: Tensor) -> torch.dtype:
    """Return at least float32: in bfloat16 an average does not change at all for decays of 0.99 and above."""
    return torch.promote_types(tensor.dtype, torch.float32)
