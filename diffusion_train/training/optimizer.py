"""The optimizer, its learning rate and the clipping of its gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


class Optimization:
    """How the gradient changes the weights: `optimizer(parameter groups)`, `lr_schedule(step) -> factor`, clipping.

    `conditioner_lr` is the conditioner's own learning rate, where it is trained; null is the optimizer's.
    """

    def __init__(
        self,
        optimizer: Callable[[Iterable[dict[str, Any]]], Optimizer],
        lr_schedule: Callable[[int], float],
        clip_norm: float | None = 1.0,
        conditioner_lr: float | None = None,
    ) -> None:
        if clip_norm is not None and not clip_norm > 0:
            raise ValueError(f"clip_norm={clip_norm:g}: above 0, or null for none")
        self.optimizer, self.lr_schedule, self.clip_norm = optimizer, lr_schedule, clip_norm
        self.conditioner_lr = conditioner_lr

    def configure(self, network: nn.Module, conditioner: nn.Module) -> tuple[list[Optimizer], list[LambdaLR]]:
        """Raises ValueError if nothing of the network is trained."""
        groups = decay_groups(network)
        if not groups:
            raise ValueError("adapter: no parameter of the network requires a gradient, so nothing would be trained")
        own = {} if self.conditioner_lr is None else {"lr": self.conditioner_lr}
        optimizer = self.optimizer([*groups, *(group | own for group in decay_groups(conditioner))])
        return [optimizer], [LambdaLR(optimizer, self.lr_schedule)]

    def clip(self, network: nn.Module) -> Tensor:
        """Clips the gradient to `clip_norm`; -> its norm before."""
        parameters = [p for p in network.parameters() if p.grad is not None]
        return nn.utils.clip_grad_norm_(parameters, self.clip_norm or float("inf"))

    def skip_unless(self, optimizer: Optimizer, finite: Tensor) -> None:
        """The next `optimizer.step()` does nothing where `finite` () is false.

        Fused optimizers read the flag on the device, as they do for torch.amp.GradScaler; for others the gradients are
        dropped, which costs a synchronisation.
        """
        if getattr(optimizer, "_step_supports_amp_scaling", False):
            optimizer.found_inf = (~finite).float()  # type: ignore[attr-defined]
        elif not finite:
            optimizer.zero_grad(set_to_none=True)


def decay_groups(network: nn.Module) -> list[dict[str, Any]]:
    """Trained parameters in two groups: weight decay for matrices and kernels, none for biases, norms and embeddings."""
    tables = {id(module.weight) for module in network.modules() if isinstance(module, nn.Embedding)}
    trainable = [p for p in network.parameters() if p.requires_grad]
    decayed = [p for p in trainable if p.ndim > 1 and id(p) not in tables]
    plain = [p for p in trainable if p.ndim <= 1 or id(p) in tables]
    groups: list[dict[str, Any]] = [{"params": decayed}, {"params": plain, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def adamw(
    groups: Iterable[dict[str, Any]],
    lr: float = 1e-4,
    betas: tuple[float, float] = (0.9, 0.99),
    weight_decay: float = 0.01,
    eps: float = 1e-8,
) -> Optimizer:
    """Loshchilov and Hutter 2019, "Decoupled weight decay regularization"; fused on every device."""
    beta1, beta2 = betas
    return torch.optim.AdamW(groups, lr=lr, betas=(beta1, beta2), weight_decay=weight_decay, eps=eps, fused=True)
