import pytest
import torch
from torch import nn

from diffusion_train.training.ema import EMA

YES = torch.tensor(True)


def linear(value: float) -> nn.Linear:
    network = nn.Linear(3, 2)
    for p in network.parameters():
        nn.init.constant_(p, value)
    return network


def test_follows_the_recursion_for_each_decay() -> None:
    network, decays = linear(0.0), [0.5, 0.9]
    ema = EMA(decays)
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
    ema = EMA([0.9])
    ema.attach(network)
    nn.init.ones_(network.weight)
    ema.update(5, torch.tensor(False))
    assert ema.average()["weight"].abs().max() == 0


def test_shadows_of_bfloat16_weights_are_float32_and_move() -> None:
    network = linear(0.0).bfloat16()
    ema = EMA([0.9999])
    ema.attach(network)
    nn.init.ones_(network.weight)
    ema.update(10**6, YES)
    assert ema.average()["weight"].dtype == torch.float32
    torch.testing.assert_close(ema.average()["weight"], torch.full((2, 3), 1e-4))


def test_only_trained_parameters_are_averaged() -> None:
    network = linear(0.0)
    network.bias.requires_grad_(False)
    ema = EMA()
    ema.attach(network)
    assert list(ema.average()) == ["weight"]


def test_own_weights_come_back_after_an_error() -> None:
    network = linear(1.0)
    ema = EMA([0.9])
    ema.attach(network)
    nn.init.constant_(network.weight, 7.0)
    with pytest.raises(RuntimeError), ema.averaged():
        assert network.weight.max() == 1
        raise RuntimeError("sampling failed")
    assert network.weight.min() == 7


def test_state_survives_a_restart() -> None:
    first, second = EMA([0.9]), EMA([0.9])
    first.attach(linear(3.0))
    second.load_state_dict(first.state_dict())
    second.attach(linear(0.0))
    assert second.average()["weight"].min() == 3


def test_other_decays_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"ema\.decays=\[0\.99\].*\[0\.9\]"):
        EMA([0.99]).load_state_dict({"decays": [0.9], "averages": []})


@pytest.mark.parametrize("decays", [[], [1.0], [-0.1]])
def test_impossible_decays_are_refused(decays: list[float]) -> None:
    with pytest.raises(ValueError, match=r"ema\.decays"):
        EMA(decays)
