from __future__ import annotations

import torch
from torch import nn

from diffusion_train.utils.tensor import widest_dtype


def test_the_widest_precision_holds_all_weights() -> None:
    mixed = nn.Sequential(nn.Linear(2, 2).bfloat16(), nn.LayerNorm(2), nn.Linear(2, 2).bfloat16())
    assert widest_dtype(mixed) == torch.float32
    assert widest_dtype(mixed.bfloat16()) == torch.bfloat16
