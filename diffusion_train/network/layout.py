"""Memory format and compilation of a network. Neither changes its results or the names of its weights."""

from __future__ import annotations

import torch
from torch import nn


def set_memory_format(network: nn.Module, channels_last: bool, compile: bool) -> None:
    """Change the network in place.

    `channels_last` stores the channels of a pixel together, which makes convolutions faster. `compile` pays off only in
    long runs; each new input shape is compiled again.
    """
    if channels_last:
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if compile:
        network.compile()
