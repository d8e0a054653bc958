"""How much arithmetic a step is, and how much the machine could do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from diffusion_train.bench.clock import timer_of

_MULTIPLIES = {
    "bf16-mixed": torch.bfloat16,
    "bf16-true": torch.bfloat16,
    "16-mixed": torch.float16,
    "64-true": torch.float64,
}


def _on_cpu(query: Any, key: Any, value: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    return int(sdpa_flop_count(query, key, value))


def _backward_on_cpu(gradient: Any, query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> int:
    return int(sdpa_backward_flop_count(gradient, query, key, value))


# Attention on a CPU, which torch does not count.
_ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _on_cpu,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _backward_on_cpu,
}


class FlopCount:
    """The number of floating-point operations of matrix products, convolutions and attention inside `counting`.

    A multiplication and an addition count as two. Operations that a gradient checkpoint repeats count again.
    """

    total = 0

    @contextmanager
    def counting(self, network: nn.Module) -> Iterator[None]:
        """Count inside the block, in which a compiled network runs as if it were not."""
        compiled, network._compiled_call_impl = network._compiled_call_impl, None
        counter = FlopCounterMode(display=False, custom_mapping=_ATTENTION)
        try:
            with counter:
                yield
        finally:
            network._compiled_call_impl = compiled
            self.total = counter.get_total_flops()


def matmul_dtype(precision: str) -> torch.dtype:
    """Return what the products of a run in this precision multiply."""
    return _MULTIPLIES.get(precision, torch.float32)


def matmul_peak(device: torch.device, dtype: torch.dtype, seconds: float = 0.5) -> float:
    """Return the FLOP/s of the fastest product of two square matrices in about `seconds`."""
    timer, size = timer_of(device), 1024 if device.type == "cpu" else 8192
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    best, spent = float("inf"), 0.0
    torch.mm(a, b)
    while spent < seconds:
        start = timer.mark()
        for _ in range(4):
            torch.mm(a, b)
        took = timer.seconds(start, timer.mark())
        best, spent = min(best, took / 4), spent + took
    return 2 * size**3 / best
