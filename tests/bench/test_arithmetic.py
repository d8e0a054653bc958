"""Counted operations are those of the closed form."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from diffusion_train.bench.arithmetic import FlopCount, matmul_dtype, matmul_peak


def counted(network: nn.Module, *inputs: torch.Tensor) -> int:
    flop = FlopCount()
    with flop.counting(network):
        network(*inputs).sum().backward()
    return flop.total


def test_a_linear_layer() -> None:
    """Two for each multiplication with an addition: forward, and backward for weights and inputs."""
    x = torch.randn(7, 5, requires_grad=True)
    assert counted(nn.Linear(5, 3), x) == 3 * 2 * 7 * 5 * 3


def test_attention_on_a_cpu() -> None:
    class Attention(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return scaled_dot_product_attention(x, x, x)

    x = torch.randn(2, 3, 16, 8, requires_grad=True)
    product = 2 * 2 * 3 * 16 * 16 * 8
    assert counted(Attention(), x) == 2 * product + 5 * product  # backward computes the scores again


def test_a_compiled_network_is_counted_uncompiled_and_stays_compiled() -> None:
    network = nn.Linear(5, 3)
    network.compile()
    compiled = network._compiled_call_impl
    assert counted(network, torch.randn(7, 5)) == 2 * 2 * 7 * 5 * 3
    assert network._compiled_call_impl is compiled


@pytest.mark.parametrize(
    ("precision", "dtype"), [("bf16-mixed", torch.bfloat16), ("16-mixed", torch.float16), ("32-true", torch.float32)]
)
def test_the_peak_is_that_of_the_run_s_precision(precision: str, dtype: torch.dtype) -> None:
    assert matmul_dtype(precision) == dtype


def test_the_peak_is_measured() -> None:
    assert 1e8 < matmul_peak(torch.device("cpu"), torch.float32, seconds=0.01) < 1e15
