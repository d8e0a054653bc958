import pytest
import torch
from torch import nn

from diffusion_train.training import ema as averages
from diffusion_train.training.ema import constant, power

YES = torch.tensor(True)


def linear(value: float) -> nn.Linear:
    network = nn.Linear(3, 2)
    for p in network.parameters():
        nn.init.constant_(p, value)
    return network


def test_follows_the_recursion_for_each_decay() -> None:
    network, decays = linear(0.0), [0.5, 0.9]
    ema = constant(decays)
    ema.attach(network)
    expected = [0.0, 0.0]
    for step in range(1, 6):
        for p in network.parameters():
            nn.init.constant_(p, float(step))
        ema.update(step, YES)
        now = [min(decay, (1 + step) / (10 + step)) for decay in decays]
        expected = [d * e + (1 - d) * step for d, e in zip(now, expected, strict=True)]
    for number, value in enumerate(expected):
        torch.testing.assert_close(ema.average(number)["weight"], torch.full((2, 3), value))


def test_a_skipped_step_does_not_move_it() -> None:
    network = linear(0.0)
    ema = constant([0.9])
    ema.attach(network)
    nn.init.ones_(network.weight)
    ema.update(5, torch.tensor(False))
    assert ema.average()["weight"].abs().max() == 0


def test_shadows_of_bfloat16_weights_are_float32_and_move() -> None:
    network = linear(0.0).bfloat16()
    ema = constant([0.9999])
    ema.attach(network)
    nn.init.ones_(network.weight)
    ema.update(10**6, YES)
    assert ema.average()["weight"].dtype == torch.float32
    torch.testing.assert_close(ema.average()["weight"], torch.full((2, 3), 1e-4))


def test_only_trained_parameters_are_averaged() -> None:
    network = linear(0.0)
    network.bias.requires_grad_(False)
    ema = constant()
    ema.attach(network)
    assert list(ema.average()) == ["weight"]


def fail_while_averaged(ema, network: nn.Linear) -> None:
    with ema.averaged():
        assert network.weight.max() == 1
        raise RuntimeError("sampling failed")


def test_own_weights_come_back_after_an_error() -> None:
    network = linear(1.0)
    ema = constant([0.9])
    ema.attach(network)
    nn.init.constant_(network.weight, 7.0)
    with pytest.raises(RuntimeError, match="sampling failed"):
        fail_while_averaged(ema, network)
    assert network.weight.min() == 7


def test_state_survives_a_restart() -> None:
    first, second = constant([0.9]), constant([0.9])
    first.attach(linear(3.0))
    second.load_state_dict(first.state_dict())
    second.attach(linear(0.0))
    assert second.average()["weight"].min() == 3


def test_an_average_that_the_checkpoint_lacks_starts_from_the_weights() -> None:
    first, second = constant([0.9]), constant([0.99, 0.9])
    first.attach(linear(3.0))
    with pytest.warns(UserWarning, match=r"\['0\.9'\]; these start from the current weights: 0\.99"):
        second.load_state_dict(first.state_dict())
    second.attach(linear(1.0))
    assert [second.average(number)["weight"].max() for number in (0, 1)] == [1, 3]


@pytest.mark.parametrize("decays", [[], [1.0], [-0.1]])
def test_impossible_decays_are_refused(decays: list[float]) -> None:
    with pytest.raises(ValueError, match=r"ema\.decays"):
        constant(decays)


@pytest.mark.parametrize("std", [0.05, 0.1, 0.2])
def test_the_power_profile_has_the_asked_spread_at_any_length(std: float) -> None:
    """Averaging the step number itself, and its square, gives the mean and spread of the profile."""
    for num_steps in (1000, 4000):
        ema = power([std])
        network = nn.Linear(1, 2, bias=False).double()
        ema.attach(network)
        for step in range(1, num_steps + 1):
            with torch.no_grad():
                network.weight.copy_(torch.tensor([[step / num_steps], [(step / num_steps) ** 2]]))
            ema.update(step, YES)
        mean, square = ema.average()["weight"].flatten().tolist()
        assert (square - mean**2) ** 0.5 == pytest.approx(std, rel=0.01)


def test_averages_move_in_pieces_that_hold_each_once_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(averages, "_PIECE", 100)
    sizes = [40, 10, 15, 1, 40, 5, 20]  # numbers of 4 bytes: 40 of them are more than a piece
    pieces = list(averages._pieces([torch.zeros(size) for size in sizes]))
    assert pieces == [[0], [1, 2], [3], [4], [5, 6]]
