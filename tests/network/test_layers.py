from __future__ import annotations

import pytest
import torch
from torch import nn

from diffusion_train.network import dit, mlp
from diffusion_train.network.layers import ImageAttention, ResidualBlock, group_norm, masked_mean

IMAGE, TOKENS, VECTOR, TEXT = torch.randn(2, 16, 4, 4), torch.randn(2, 16, 16), torch.randn(2, 8), torch.randn(2, 3, 8)
IDENTITIES = {
    "residual": lambda: (ResidualBlock(16, 8), (IMAGE, VECTOR)),
    "attention": lambda: (ImageAttention(16, 8), (IMAGE, TEXT)),
    "dit": lambda: (dit.Block(16, None), (TOKENS, VECTOR.repeat(1, 2), None, None, torch.ones(2, 16, 8))),
    "mlp": lambda: (mlp.Block(8), (VECTOR, VECTOR)),
}


@pytest.mark.parametrize("name", IDENTITIES)
def test_blocks_are_the_identity_at_the_start(name: str) -> None:
    block, inputs = IDENTITIES[name]()
    torch.testing.assert_close(block(*inputs), inputs[0], rtol=0, atol=0)


def test_masked_mean_is_the_mean_of_what_is_left_in_full_precision() -> None:
    tokens = torch.randn(3, 7, 4, dtype=torch.float64)
    mask = torch.arange(7) < torch.tensor([[7], [3], [0]])
    expected = torch.stack([tokens[0].mean(0), tokens[1, :3].mean(0), torch.zeros(4, dtype=torch.float64)])
    torch.testing.assert_close(masked_mean(tokens, mask), expected, rtol=1e-14, atol=1e-14)
    torch.testing.assert_close(masked_mean(tokens, None), tokens.mean(1), rtol=0, atol=0)


@pytest.mark.parametrize(("channels", "groups"), [(4, 1), (20, 2), (64, 8), (96, 4), (320, 8), (1024, 32)])
def test_groups_hold_at_least_8_channels_where_there_are_as_many(channels: int, groups: int) -> None:
    norm = group_norm(channels)
    assert isinstance(norm, nn.GroupNorm)
    assert norm.num_groups == groups
