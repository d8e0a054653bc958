from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from diffusion_train.network.dit import DiT
from diffusion_train.network.mlp import MLP
from diffusion_train.network.unet import UNet

ROWS, TOKENS, TEXT, POOLED, LABELS = 3, 5, 12, 6, 4
SIZES = {"text_dim": TEXT, "pooled_dim": POOLED, "num_labels": LABELS, "concat_channels": 2}


def _unet(**options: object) -> UNet:
    return UNet(3, [16, 32], [1, 1], [False, True], **options)


def _dit(**options: object) -> DiT:
    return DiT(3, 32, 2, **options)


BUILDERS: dict[str, Callable[..., nn.Module]] = {"unet": _unet, "dit": _dit}


@pytest.fixture(params=BUILDERS)
def build(request: pytest.FixtureRequest) -> Callable[..., nn.Module]:
    """An image network with random weights everywhere, also where it starts from 0; `start=True` leaves these at 0."""

    def make(start: bool = False, **options: object) -> nn.Module:
        torch.manual_seed(0)
        network = BUILDERS[request.param](**options)
        return network if start else randomise(network)

    return make


@pytest.fixture
def points() -> MLP:
    torch.manual_seed(0)
    return randomise(MLP(2, 32, 2, num_labels=LABELS))


def randomise(network: nn.Module) -> nn.Module:
    for parameter in network.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    return network


@pytest.fixture
def sizes() -> dict[str, int]:
    """Constructor options that ask for every condition."""
    return dict(SIZES)


@pytest.fixture
def x() -> Tensor:
    return torch.randn(ROWS, 3, 8, 12, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def t() -> Tensor:
    return torch.tensor([3.0, 500.0, 900.0])


@pytest.fixture
def cond() -> dict[str, Tensor]:
    """Every standard condition; the last two tokens of row 0 and all tokens of row 1 are masked out."""
    generator = torch.Generator().manual_seed(2)
    mask = torch.ones(ROWS, TOKENS, dtype=torch.bool)
    mask[0, -2:] = False
    mask[1] = False
    return {
        "text": torch.randn(ROWS, TOKENS, TEXT, generator=generator),
        "text_mask": mask,
        "pooled": torch.randn(ROWS, POOLED, generator=generator),
        "label": torch.tensor([0, 2, LABELS]),
        "concat": torch.randn(ROWS, 2, 8, 12, generator=generator),
    }
