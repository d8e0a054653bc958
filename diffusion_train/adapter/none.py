"""Full training, without an adapter."""

from __future__ import annotations

from torch import nn


class NoAdapter:
    """Leaves the network as it is and trains all of its weights."""

    def __call__(self, network: nn.Module) -> nn.Module:
        return network.requires_grad_()
