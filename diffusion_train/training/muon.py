"""Muon: moves each matrix by the orthogonal factor of its averaged gradient, and all other parameters by AdamW.

Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks". The factor 0.2 * sqrt(max(m, n)) gives a
matrix (m, n) about the step of AdamW, so that learning rates carry over: Liu et al. 2025, "Muon is Scalable for LLM
Training".
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.adamw import adamw

from diffusion_train.utils.ranges import at_least, fraction

# a, b, c of the polynomials a x + b x^3 + c x^5 of Amsel et al. 2025, "The Polar Express: Optimal Matrix Sign Methods
# and Their Application to the Muon Algorithm". Four bring singular values of 0.001 to 1 to between 0.44 and 1.56. More
# iterations come closer to 1, but the loss of a run falls no faster.
_COEFFICIENTS = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
)

Groups = Iterable[dict[str, Any]]


def muon(
    groups: Groups,
    lr: float = 2e-3,
    momentum: float = 0.95,
    betas: tuple[float, float] = (0.9, 0.99),
    weight_decay: float = 0.01,
    eps: float = 1e-8,
    adamw_names: Sequence[str] = (),
) -> Optimizer:
    """Return Muon for the groups with weight decay, which hold matrices and kernels, and AdamW for the others.

    AdamW also gets the parameters whose name contains one of `adamw_names`. `betas` and `eps` are those of AdamW.
    """
    at_least(0, **{"optimizer.lr": lr, "optimizer.weight_decay": weight_decay, "optimizer.eps": eps})
    fraction(**{"optimizer.momentum": momentum})
    beta1, beta2 = betas
    divided = [part for group in groups for part in _divided(group, adamw_names)]
    return Muon(divided, lr=lr, momentum=momentum, betas=(beta1, beta2), weight_decay=weight_decay, eps=eps)


class Muon(Optimizer):
    """Takes groups of parameters: those with `orthogonal: true` move by Muon, the others by a fused AdamW.

    A kernel (out, in, height, width) counts as a matrix (out, in * height * width).
    """

    _step_supports_amp_scaling = True  # torch's name for: `step` reads `found_inf` on the device

    def __init__(self, groups: Groups, **settings: Any) -> None:
        super().__init__(groups, settings | {"orthogonal": False})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Move the parameters that have a gradient; if `found_inf` is set and not 0, nothing changes."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        found_inf: Tensor | None = getattr(self, "found_inf", None)
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            grads = [p.grad for p in group["params"] if p.grad is not None]
            if parameters:
                move = self._move_orthogonally if group["orthogonal"] else self._move_by_adamw
                move(parameters, grads, group, found_inf)
        return loss

    def _move_orthogonally(
        self, parameters: list[Tensor], grads: list[Tensor], group: dict[str, Any], found_inf: Tensor | None
    ) -> None:
        averages = [self._state(p, "momentum", torch.zeros_like)["momentum"] for p in parameters]
        rate: Tensor | float = -group["lr"]
        if found_inf is not None:  # averages of themselves and a step of 0 change nothing
            finite = found_inf == 0
            grads = [torch.where(finite, grad, average) for grad, average in zip(grads, averages, strict=True)]
            rate = rate * finite
        torch._foreach_lerp_(averages, grads, 1 - group["momentum"])
        ahead = torch._foreach_lerp(grads, averages, group["momentum"])  # Nesterov's momentum
        moves = orthogonal_factors([matrix.flatten(1) for matrix in ahead])
        torch._foreach_mul_(moves, [0.2 * max(move.shape) ** 0.5 for move in moves])
        torch._foreach_add_(moves, [p.flatten(1) for p in parameters], alpha=group["weight_decay"])
        torch._foreach_mul_(moves, rate)
        torch._foreach_add_(parameters, [move.reshape(p.shape) for p, move in zip(parameters, moves, strict=True)])

    def _move_by_adamw(
        self, parameters: list[Tensor], grads: list[Tensor], group: dict[str, Any], found_inf: Tensor | None
    ) -> None:
        for p in parameters:
            self._state(p, "step", lambda p: torch.zeros((), dtype=torch.float32, device=p.device))
            self._state(p, "exp_avg", torch.zeros_like)
            self._state(p, "exp_avg_sq", torch.zeros_like)
        exp_avgs, exp_avg_sqs, steps = (
            [self.state[p][name] for p in parameters] for name in ("exp_avg", "exp_avg_sq", "step")
        )
        beta1, beta2 = group["betas"]
        settings = {name: group[name] for name in ("lr", "weight_decay", "eps")}
        adamw(
            parameters, grads, exp_avgs, exp_avg_sqs, [], steps, fused=True, found_inf=found_inf,
            amsgrad=False, maximize=False, beta1=beta1, beta2=beta2, **settings,
        )  # fmt: skip

    def _state(self, p: Tensor, name: str, first: Callable[[Tensor], Tensor]) -> dict[str, Any]:
        state: dict[str, Any] = self.state[p]
        if name not in state:
            state[name] = first(p)
        return state


def orthogonal_factors(matrices: Sequence[Tensor]) -> list[Tensor]:
    """Return about U V^T for each matrix U S V^T (m, n); its singular values lie between 0.44 and 1.56.

    The iteration runs on the smaller Gram matrix, U S^2 U^T, which takes a third of the work if n is 9 m. Gram matrices
    of one size are iterated as one batch.
    """
    wide = [matrix if matrix.shape[0] <= matrix.shape[1] else matrix.mT for matrix in matrices]
    norms = torch._foreach_norm(wide)
    wide = list(torch._foreach_div(wide, [norm.clamp(min=torch.finfo(norm.dtype).tiny) for norm in norms]))
    alike: dict[tuple[Any, ...], list[int]] = defaultdict(list)
    for number, matrix in enumerate(wide):
        alike[(len(matrix), matrix.dtype, matrix.device)].append(number)
    for numbers in alike.values():
        products = _inverse_roots(torch.stack([wide[number] @ wide[number].mT for number in numbers]))
        for number, product in zip(numbers, products, strict=True):
            wide[number] = product @ wide[number]
    return [found if found.shape == given.shape else found.mT for found, given in zip(wide, matrices, strict=True)]


def _inverse_roots(gram: Tensor) -> Tensor:
    """Return about G^(-1/2) for each G of gram (B, m, m): the product of all polynomials a + b G + c G^2."""
    product: Tensor | None = None
    for number, (a, b, c) in enumerate(_COEFFICIENTS, 1):
        factor = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        factor.diagonal(dim1=1, dim2=2).add_(a)
        product = factor if product is None else factor @ product
        if number < len(_COEFFICIENTS):
            gram = factor @ gram @ factor
    assert product is not None
    return product


def _divided(group: dict[str, Any], adamw_names: Sequence[str]) -> list[dict[str, Any]]:
    """Return a group as one for Muon and one for AdamW, without those that are empty."""
    parameters = group["params"]
    names = group.get("param_names", [""] * len(parameters))
    by_muon = [
        p.ndim > 1 and group.get("weight_decay") != 0 and not any(part in name for part in adamw_names)
        for name, p in zip(names, parameters, strict=True)
    ]
    parts = []
    for orthogonal in (True, False):
        chosen = [number for number, own in enumerate(by_muon) if own == orthogonal]
        part = {"params": [parameters[i] for i in chosen], "param_names": [names[i] for i in chosen]}
        parts.append(group | part | {"orthogonal": orthogonal})
    return [part for part in parts if part["params"]]
