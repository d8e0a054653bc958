"""Conditioners turn a batch into conditions: the keyword arguments of a network."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from diffusion_train.conditioner.text.encoder import FrozenText
from diffusion_train.utils.tensor import expand

Cond = dict[str, Tensor]


class Conditioner(nn.Module, ABC):
    """Turns a batch into conditions. It is frozen and not saved in checkpoints, unless it is adapted.

    Conditions have the device and precision that the module is moved to. `reads_captions` and `reads_images` say
    whether sampling accepts prompts and images.
    """

    like: Tensor  # on the device and in the precision of the conditions
    reads_captions = False
    reads_images = False
    adapted = False

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("like", torch.zeros(()), persistent=False)

    @abstractmethod
    def forward(self, batch: dict[str, Any]) -> Cond:
        """Return the conditions (B, ...) of a batch by name."""

    def null(self, n: int) -> Cond:
        """Return the values that mean "no condition" for n rows; conditions without an entry are never dropped.

        The default has an entry for every condition: its value for an empty caption.
        """
        cond: Cond = self({"caption": [""] * n})
        return cond

    def caption_check(self) -> Callable[[str], object] | None:
        """Return a function, which can be pickled, that raises ValueError for an unusable caption; None accepts all."""
        return None

    def texts(self) -> list[FrozenText]:
        """Return the parts that embed captions with a frozen encoder."""
        return []

    def adapt(self, adapter: Callable[[nn.Module], nn.Module]) -> None:
        """Apply `adapter` to the text encoder: gradients then reach its trained weights, and checkpoints hold them.

        Raises ValueError if there is no text encoder that can be adapted.
        """
        raise ValueError(
            f"adapter.text_encoder: {type(self).__name__} has no text encoder that can be trained; leave it out, or "
            "give Stable Diffusion 1, 2 or XL as pretrained=<model>"
        )

    def warm_up(self, captions: Iterable[str]) -> None:
        """Compute before training what would otherwise be computed on the fly; the default does nothing.

        `captions` may be very many. They are read lazily, from the start by each iteration.
        """


def drop(cond: Cond, null: Cond, mask: Tensor) -> Cond:
    """Return `cond` with the rows where `mask` (B,) is false replaced by `null`; names that `null` lacks stay."""
    assert null.keys() <= cond.keys(), (
        f"the names in null must be among the conditions {sorted(cond)}, got {sorted(null)}"
    )
    return cond | {name: torch.where(expand(mask, cond[name]), cond[name], value) for name, value in null.items()}


def entry(values: Mapping[str, Any], key: str, reader: str) -> Any:
    """Return `values[key]`; raises ValueError that lists the keys if it is missing."""
    if key not in values:
        raise ValueError(f"{reader} needs {key!r}, got only {', '.join(sorted(values))}")
    return values[key]
