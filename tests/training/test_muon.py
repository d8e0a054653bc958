import copy
import math

import pytest
import torch
from torch import nn

from diffusion_train.training.lr_schedule import Constant
from diffusion_train.training.muon import muon, orthogonal_factors
from diffusion_train.training.optimizer import Optimization, adamw, decay_groups


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 16, 2), nn.GroupNorm(2, 16), nn.Flatten(), nn.Linear(16, 4), nn.Linear(4, 8))


def move(net: nn.Module, optimizer: torch.optim.Optimizer, num_steps: int = 3) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    for _ in range(num_steps):
        for p in net.parameters():
            p.grad = torch.randn(p.shape, generator=generator)
        optimizer.step()
    return {name: p.detach().clone() for name, p in net.named_parameters()}


@pytest.mark.parametrize("shape", [(6, 6), (6, 40), (40, 6), (1, 5)])
def test_the_factors_have_the_matrix_s_singular_vectors_and_values_near_1(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    u, _, v = torch.linalg.svd(torch.randn(shape), full_matrices=False)
    matrix = u @ torch.logspace(0, -1.5, min(shape)).diag() @ v
    found, other = orthogonal_factors([matrix, torch.randn(3, 7)])
    core = u.mT @ found @ v.mT
    assert torch.allclose(core, core.diagonal().diag(), atol=1e-5)
    assert core.diagonal().min() > 0.4
    assert core.diagonal().max() < 1.6
    assert other.shape == (3, 7)


def test_a_gradient_of_0_moves_nothing() -> None:
    [found] = orthogonal_factors([torch.zeros(4, 5)])
    assert torch.equal(found, torch.zeros(4, 5))


def test_with_torch_s_polynomials_matrices_move_as_by_its_muon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diffusion_train.training.muon._COEFFICIENTS", 5 * [(3.4445, -4.7750, 2.0315)])
    net = nn.Linear(16, 24, bias=False)
    theirs_net = copy.deepcopy(net)
    settings = {"lr": 0.02, "momentum": 0.9, "weight_decay": 0.1}
    before = net.weight.detach().clone()
    ours = move(net, muon(decay_groups(net), **settings))["weight"] - before
    reference = torch.optim.Muon(theirs_net.parameters(), **settings, adjust_lr_fn="match_rms_adamw")
    theirs = move(theirs_net, reference)["weight"] - before
    assert (ours - theirs).norm() < 0.02 * theirs.norm()  # torch iterates in bfloat16


def test_all_but_the_chosen_matrices_move_as_by_adamw() -> None:
    net = network()
    other = copy.deepcopy(net)
    ours = move(net, muon(decay_groups(net), lr=0.01, weight_decay=0.1, adamw_names=["0.", "4."]))
    theirs = move(other, adamw(decay_groups(other), lr=0.01, weight_decay=0.1))
    differing = {name for name in ours if not torch.equal(ours[name], theirs[name])}
    assert differing == {"3.weight"}


def test_a_saved_optimizer_continues_with_the_same_bits() -> None:
    net = network()
    optimizer = muon(decay_groups(net))
    move(net, optimizer)
    other = copy.deepcopy(net)
    continued = muon(decay_groups(other))
    continued.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    expected, found = move(net, optimizer), move(other, continued)
    assert all(torch.equal(expected[name], found[name]) for name in expected)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_changes_neither_weights_nor_averages(bad: float) -> None:
    net = network()
    optimization = Optimization(muon, Constant(1))
    (optimizer,), _ = optimization.configure(net, nn.Identity())
    before = move(net, optimizer)
    state = copy.deepcopy(optimizer.state_dict()["state"])
    for p in net.parameters():
        p.grad = torch.full_like(p, bad)
    optimization.skip_unless(optimizer, torch.tensor(False))
    optimizer.step()
    assert all(torch.equal(p, before[name]) for name, p in net.named_parameters())
    after = optimizer.state_dict()["state"]
    assert all(torch.equal(after[i][name], value) for i, kept in state.items() for name, value in kept.items())


@pytest.mark.parametrize("setting", [{"momentum": 1.5}, {"lr": -1.0}, {"weight_decay": math.nan}])
def test_settings_outside_of_their_range_are_refused(setting: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"optimizer.{next(iter(setting))}"):
        muon(decay_groups(network()), **setting)
