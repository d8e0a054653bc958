import math

import pytest
import torch
from torch import nn

from diffusion_train.training.lr_schedule import Constant
from diffusion_train.training.optimizer import Optimization, adamw, decay_groups


def network() -> nn.Module:
    return nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 4), nn.LayerNorm(4))


def test_decay_falls_on_matrices_alone() -> None:
    net = network()
    decayed, plain = decay_groups(net)
    assert [p.shape for p in decayed["params"]] == [(4, 4)]
    assert plain["weight_decay"] == 0
    assert sum(p.numel() for p in plain["params"]) == 5 * 4 + 4 + 4 + 4


def test_frozen_parameters_are_left_out_and_nothing_to_train_is_refused() -> None:
    net = network().requires_grad_(False)
    with pytest.raises(ValueError, match="nothing would be trained"):
        Optimization(adamw, Constant(1)).configure(net, nn.Identity())


@pytest.mark.parametrize("clip_norm", [0, -1.0])
def test_a_norm_that_would_leave_no_gradient_or_turn_it_around_is_refused(clip_norm: float) -> None:
    with pytest.raises(ValueError, match=rf"clip_norm={clip_norm:g}: must be above 0, or null for no clipping"):
        Optimization(adamw, Constant(1), clip_norm)


@pytest.mark.parametrize("make", [adamw, lambda groups: torch.optim.SGD(groups, lr=0.1)], ids=["fused", "plain"])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_changes_no_weight(make, bad: float) -> None:
    net = nn.Linear(2, 2)
    optimization = Optimization(make, Constant(1))
    (optimizer,), _ = optimization.configure(net, nn.Identity())
    before = net.weight.detach().clone()
    for value, moved in ((bad, False), (1.0, True)):
        for p in net.parameters():
            p.grad = torch.full_like(p, value)
        norm = optimization.clip(net)
        optimization.skip_unless(optimizer, torch.isfinite(norm))
        optimizer.step()
        assert torch.equal(net.weight, before) != moved
    assert net.weight.isfinite().all()


def test_clipping_returns_the_norm_before_and_leaves_the_asked_one() -> None:
    net = nn.Linear(3, 3, bias=False)
    net.weight.grad = torch.full((3, 3), 2.0)
    assert Optimization(adamw, Constant(1), clip_norm=1.5).clip(net) == pytest.approx(6.0)
    assert net.weight.grad.norm() == pytest.approx(1.5, rel=1e-5)
