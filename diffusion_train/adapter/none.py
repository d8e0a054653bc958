"""Full training."""

from __future__ import annotations

from torch import nn


class NoAdapter:
    """The network as it is, all of it trained."""

    def __call__(self, network: nn.Module) -> nn.Module:
        return network.requires_grad_()
