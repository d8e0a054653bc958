"""A run that learns nothing says so, whatever the cause."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

from diffusion_train.callbacks.movement import Movement
from diffusion_train.network.mlp import MLP
from diffusion_train.utils.quiet import quiet_libraries


def reports(run_points, tmp_path: Path, **settings) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run_points(tmp_path, 8, callbacks=(Movement(num_steps=3),), **settings)
    return [str(w.message) for w in caught if "learns nothing" in str(w.message)]


class Deaf(MLP):
    """Its output does not depend on its weights."""

    def forward(self, x, t, **cond):
        return 0 * super().forward(x, t, **cond) + x


def test_a_run_that_learns_reports_nothing(run_points, tmp_path: Path) -> None:
    assert reports(run_points, tmp_path) == []


def test_a_gradient_of_0_is_reported_once(run_points, tmp_path: Path) -> None:
    (message,) = reports(run_points, tmp_path, network=Deaf(in_channels=2, width=16, depth=1), lr=0.0)[:1]
    assert message.startswith("step 1: the gradient of all trained weights is exactly 0")


@pytest.mark.parametrize("lr", [0.0, 1e-14])
def test_weights_that_do_not_move_are_reported_once(run_points, tmp_path: Path, lr: float) -> None:
    (message,) = reports(run_points, tmp_path, lr=lr, network=trained_before())
    assert message.startswith("step 3: no trained weight changed since step 0")


def test_a_schedule_that_ends_before_the_run_is_reported_at_the_start(run_points, tmp_path: Path) -> None:
    """The run's cosine reaches 0 after 20 steps. The commands silence Lightning, which calls the callback."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        quiet_libraries()
        run_points(tmp_path, 22, callbacks=(Movement(),))
    assert any("the learning rate is 0 from step 21 to trainer.max_steps=22" in str(w.message) for w in caught)


def trained_before() -> nn.Module:
    """A network whose weights are not 0, where any change is greater than the smallest number."""
    torch.manual_seed(0)
    network = MLP(in_channels=2, width=16, depth=1)
    for weight in network.parameters():
        nn.init.normal_(weight)
    return network
