"""How a network lies in memory and how it is run. Neither changes what it computes, nor the names of its weights."""

from __future__ import annotations

import torch
from torch import nn


def set_memory_format(network: nn.Module, channels_last: bool, compile: bool) -> None:
    """Change the network in place. `channels_last` keeps the channels of a pixel together, which convolutions like;
    `compile` pays for itself only in long runs, and compiles anew for each new shape."""
    if channels_last:
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if compile:
        network.compile()
