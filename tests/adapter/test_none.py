from __future__ import annotations

import torch
from torch import nn

from diffusion_train.adapter.none import NoAdapter


def test_same_network_all_of_it_trained() -> None:
    network = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1)).requires_grad_(False)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    adapted = NoAdapter()(network)
    assert adapted is network
    assert all(parameter.requires_grad for parameter in adapted.parameters())
    torch.testing.assert_close(dict(adapted.state_dict()), before, rtol=0, atol=0)
