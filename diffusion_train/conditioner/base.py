"""What turns a batch into the conditions that a network is given by keyword."""

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
    """Frozen and never part of a checkpoint, unless it is adapted.

    Its conditions take the device and precision that the module is moved to. `reads_captions` and `reads_images` say
    whether sampling may be given prompts and pictures.
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
        """-> {name: (B, ...)}."""

    def null(self, n: int) -> Cond:
        """What stands for "no condition" in n rows; conditions that are not named in it are kept.

        By default all of them, as an empty caption has them.
        """
        cond: Cond = self({"caption": [""] * n})
        return cond

    def texts(self) -> list[FrozenText]:
        """The parts that embed captions and stay as they are."""
        return []

    def adapt(self, adapter: Callable[[nn.Module], nn.Module]) -> None:
        """Places trained weights in the text encoder: gradients then reach them, and checkpoints hold them.

        ValueError where there is no text encoder that this can be done with.
        """
        raise ValueError(
            f"adapter.text_encoder: {type(self).__name__} has no text encoder that can be trained; those of Stable "
            "Diffusion 1, 2 and XL can: leave it out, or give such a model as pretrained=<model>"
        )

    def warm_up(self, captions: Iterable[str]) -> None:
        """Do before training what would otherwise be done on the fly; by default there is nothing to do.

        There may be very many captions, which are read as they are taken, anew by each that goes over them.
        """


def drop(cond: Cond, null: Cond, mask: Tensor) -> Cond:
    """Rows of `cond` where keep (B,) bool, rows of `null`, as far as it has them, elsewhere."""
    assert null.keys() <= cond.keys(), f"conditions {sorted(cond)} and their absence {sorted(null)} differ in names"
    return cond | {name: torch.where(expand(mask, cond[name]), cond[name], value) for name, value in null.items()}


def entry(values: Mapping[str, Any], key: str, reader: str) -> Any:
    """`values[key]`, or ValueError that says what there is instead."""
    if key not in values:
        raise ValueError(f"{reader} needs {key!r}, which is not among {', '.join(sorted(values))}")
    return values[key]
