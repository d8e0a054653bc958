"""What is `auto` is chosen by the time of real passes, which leave the run as it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from diffusion_train.training.compilation import is_worth_trying, repays
from diffusion_train.training.passes import Passes, faster


def timer(**seconds: float) -> Callable[[str], float]:
    noise = cycle([1.0, 1.02, 0.98])
    return lambda name: seconds[name] * next(noise)


@pytest.mark.parametrize(
    ("bfloat16", "expected"), [(0.5, "b"), (0.9, "b"), (0.99, "f"), (1.3, "f")], ids=["half", "10 %", "1 %", "slower"]
)
def test_bfloat16_is_chosen_only_if_it_is_clearly_faster(bfloat16: float, expected: str) -> None:
    assert faster(timer(f=0.1, b=0.1 * bfloat16), "f", "b", budget=1.0) == expected


def test_a_choice_takes_its_time_and_no_more() -> None:
    spent: list[float] = []
    faster(lambda name: spent.append(0.05) or 0.05, "f", "b", budget=1.0)
    assert 1.0 <= sum(spent) < 1.15


def test_passes_change_nothing(run_points, tmp_path: Path) -> None:
    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2))

        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return self.layers(x)

    module, _ = run_points(tmp_path, 1, network=Noisy())
    module.network.eval()
    before = {name: value.clone() for name, value in module.network.state_dict().items()}
    random = torch.get_rng_state()
    passes = Passes(module, torch.randn(6, 2, generator=torch.Generator().manual_seed(0)), {})
    assert passes.seconds("32-true") > 0
    assert passes.first(2).seconds("bf16-mixed") > 0
    assert passes.num_operations() > 20
    assert all(torch.equal(before[name], value) for name, value in module.network.state_dict().items())
    assert torch.equal(random, torch.get_rng_state())
    assert not module.network.training
    assert all(p.grad is None for p in module.network.parameters())


def test_compilation_is_tried_only_in_a_run_that_could_repay_it() -> None:
    assert not is_worth_trying(1500, "cpu", seconds_left=6.5 * 60)
    assert is_worth_trying(1500, "cpu", seconds_left=24 * 3600)


class Compiled(nn.Linear):
    """Its passes take 1 s, or `seconds` once it is compiled, which costs `cost`."""

    def __init__(self, seconds: float, cost: float) -> None:
        super().__init__(1, 1)
        self.durations: Iterator[float] = iter([cost, *[seconds] * 100])

    def compile(self) -> None:
        self._compiled_call_impl = object()

    def run(self) -> float:
        return 1.0 if self._compiled_call_impl is None else next(self.durations)


@pytest.mark.parametrize(("seconds", "minutes", "expected"), [(0.8, 60, True), (0.8, 30, False), (1.0, 10**6, False)])
def test_it_is_kept_only_if_it_is_repaid_ten_times(seconds: float, minutes: float, expected: bool) -> None:
    """A cost of 61 s, with one pass, must gain 600 s."""
    network = Compiled(seconds, cost=61.0)
    assert repays(network, network.run, 60 * minutes) is expected
    assert (network._compiled_call_impl is not None) is expected


def test_a_failure_leaves_the_network_uncompiled() -> None:
    network = Compiled(1.0, cost=1.0)
    network.durations = iter([])
    with pytest.raises(StopIteration):
        repays(network, network.run, 1e6)
    assert network._compiled_call_impl is None
