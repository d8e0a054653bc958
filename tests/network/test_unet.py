from __future__ import annotations

import pytest
import torch

from diffusion_train.network.layout import set_memory_format
from diffusion_train.network.unet import UNet


def test_one_entry_a_level() -> None:
    with pytest.raises(ValueError, match="3, 2 and 3"):
        UNet(3, [16, 16, 16], [1, 1], [False, False, True])


def test_channels_last_reaches_activations() -> None:
    network = UNet(3, [8, 16], [1, 1], [False, False])
    set_memory_format(network, channels_last=True, compile=False)
    seen: list[bool] = []
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d) and module.in_channels > 3:
            module.register_forward_pre_hook(
                lambda _, inputs: seen.append(inputs[0].is_contiguous(memory_format=torch.channels_last))
            )
    network(torch.randn(2, 3, 8, 8), torch.zeros(2))
    assert len(seen) > 10
    assert all(seen)


@pytest.mark.slow
def test_compiles_in_place() -> None:
    """Same numbers; and keys without a wrapper's prefix, so that checkpoints load with and without compilation."""
    torch.manual_seed(0)
    network = UNet(3, [8], [1], [False])
    torch.nn.init.normal_(network.head[2].weight)
    x, t = torch.randn(2, 3, 8, 8), torch.tensor([3.0, 500.0])
    keys, plain = list(network.state_dict()), network(x, t)
    set_memory_format(network, channels_last=False, compile=True)
    assert list(network.state_dict()) == keys
    torch.testing.assert_close(network(x, t), plain, rtol=0, atol=1e-5)


def test_patches_are_blocks_of_pixels() -> None:
    """Without attention, with patches of 2, a pixel reaches no further than its patch's convolutions do."""
    torch.manual_seed(0)
    network = UNet(1, [8], [1], [False], patch_size=2)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    for norm in (m for m in network.modules() if isinstance(m, torch.nn.GroupNorm)):
        norm.forward = lambda v: v  # a norm mixes all pixels
    x = torch.zeros(1, 1, 64, 64)
    x[..., 31, 31] = 1
    zero = torch.zeros(1)
    rows = (network(x, zero) - network(torch.zeros_like(x), zero)).abs().sum((0, 1, 3)).nonzero().flatten()
    num_convolutions = 1 + 3 * 2 + 1  # stem; down, middle and up with two each; head
    assert (rows.min() // 2, rows.max() // 2) == (15 - num_convolutions, 15 + num_convolutions)


def test_dropout_acts_in_training_alone() -> None:
    torch.manual_seed(0)
    network = UNet(3, [8], [1], [False], dropout=0.5)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    x, t = torch.randn(2, 3, 8, 8), torch.tensor([3.0, 500.0])
    assert not torch.equal(network(x, t), network(x, t))
    network.eval()
    assert torch.equal(network(x, t), network(x, t))
    with pytest.raises(ValueError, match=r"network\.dropout=1"):
        UNet(3, [8], [1], [False], dropout=1)
