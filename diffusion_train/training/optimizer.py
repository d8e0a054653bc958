"""The optimizer, its learning rate and gradient clipping."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from diffusion_train.utils.ranges import at_least


class Optimization:
    """The optimizer with learning rate schedule and clipping of the gradient norm to `clip_norm` (null: none).

    `optimizer` takes parameter groups; `lr_schedule` returns a factor for a step. `conditioner_lr` is the learning rate
    of a conditioner that is trained; null uses the optimizer's.
    """

    def __init__(
        self,
        optimizer: Callable[[Iterable[dict[str, Any]]], Optimizer],
        lr_schedule: Callable[[int], float],
        clip_norm: float | None = 1.0,
        conditioner_lr: float | None = None,
    ) -> None:
        if clip_norm is not None and not clip_norm > 0:
            raise ValueError(f"clip_norm={clip_norm:g}: must be above 0, or null for no clipping")
        at_least(0, **{"adapter.text_encoder_lr": conditioner_lr})
        self.optimizer, self.lr_schedule, self.clip_norm = optimizer, lr_schedule, clip_norm
        self.conditioner_lr = conditioner_lr
        self._group_settings: list[dict[str, Any]] = []

    def configure(self, network: nn.Module, conditioner: nn.Module) -> tuple[list[Optimizer], list[LambdaLR]]:
        """Return optimizers and schedulers for Lightning. Raises ValueError if no weight of the network is trained."""
        groups = decay_groups(network)
        if not groups:
            raise ValueError("adapter: no parameter of the network requires a gradient, so nothing would be trained")
        own = {} if self.conditioner_lr is None else {"lr": self.conditioner_lr}
        optimizer = self.optimizer([*groups, *(group | own for group in decay_groups(conditioner))])
        kept = {"params", "param_names"}
        self._group_settings = [
            {key: value for key, value in group.items() if key not in kept} for group in optimizer.param_groups
        ]
        # a plain function: LambdaLR would save and restore the settings of an object
        return [optimizer], [LambdaLR(optimizer, lambda step: self.lr_schedule(step))]

    def apply_settings(self, optimizer: Optimizer, lr_schedule: LambdaLR) -> None:
        """Give a restored optimizer and its learning rates the configured settings in place of the saved ones."""
        lr_schedule.base_lrs = [settings["lr"] for settings in self._group_settings]
        factor = self.lr_schedule(lr_schedule.last_epoch)
        for group, settings in zip(optimizer.param_groups, self._group_settings, strict=True):
            group.update(settings, initial_lr=settings["lr"], lr=settings["lr"] * factor)

    def clip(self, network: nn.Module) -> Tensor:
        """Clip the gradient to `clip_norm` and return its norm before clipping, a scalar."""
        parameters = [p for p in network.parameters() if p.grad is not None]
        return nn.utils.clip_grad_norm_(parameters, self.clip_norm or float("inf"))

    def skip_unless(self, optimizer: Optimizer, finite: Tensor) -> None:
        """Make the next `optimizer.step()` do nothing if the scalar tensor `finite` is false.

        Fused optimizers read the flag on the device, as they do for torch.amp.GradScaler. For others the gradients are
        set to None, which needs a synchronization.
        """
        if is_fused(optimizer):
            optimizer.found_inf = (~finite).float()  # type: ignore[attr-defined]
        elif not finite:
            optimizer.zero_grad(set_to_none=True)


def is_fused(optimizer: Optimizer) -> bool:
    """Whether the optimizer reads on the device that a step is to be skipped, as torch.amp.GradScaler supports it."""
    return bool(getattr(optimizer, "_step_supports_amp_scaling", False))


def step_back(lr_schedule: LambdaLR) -> None:
    """Undo the last step of a learning rate schedule."""
    lr_schedule.last_epoch -= 2
    lr_schedule.step()


def decay_groups(network: nn.Module) -> list[dict[str, Any]]:
    """Return the trained parameters and their names: matrices and kernels with weight decay, all others without."""
    tables = {id(module.weight) for module in network.modules() if isinstance(module, nn.Embedding)}
    decayed, plain = dict[str, nn.Parameter](), dict[str, nn.Parameter]()
    for name, p in network.named_parameters():
        if p.requires_grad:
            (decayed if p.ndim > 1 and id(p) not in tables else plain)[name] = p
    groups = [_group(decayed), _group(plain) | {"weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def _group(parameters: dict[str, nn.Parameter]) -> dict[str, Any]:
    return {"params": list(parameters.values()), "param_names": list(parameters)}


def adamw(
    groups: Iterable[dict[str, Any]],
    lr: float = 1e-4,
    betas: tuple[float, float] = (0.9, 0.99),
    weight_decay: float = 0.01,
    eps: float = 1e-8,
) -> Optimizer:
    """Return a fused AdamW (Loshchilov and Hutter 2019, "Decoupled Weight Decay Regularization")."""
    at_least(0, **{"optimizer.lr": lr, "optimizer.weight_decay": weight_decay, "optimizer.eps": eps})
    beta1, beta2 = betas
    return torch.optim.AdamW(groups, lr=lr, betas=(beta1, beta2), weight_decay=weight_decay, eps=eps, fused=True)
