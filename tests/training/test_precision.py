"""Trained weights move in every precision as they do in float32, or the precision is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from diffusion_train.adapter.lora import LoRA
from diffusion_train.network.mlp import MLP
from diffusion_train.training.precision import check_device, check_trained, shortened_frozen


def trained_adapter(network: nn.Module) -> nn.Module:
    """LoRA whose weights are not 0, so that bfloat16 rounds small changes away."""
    adapted = LoRA(rank=4, targets=".*")(network)
    generator = torch.Generator().manual_seed(0)
    for weight in trained(adapted):
        nn.init.normal_(weight, std=0.1, generator=generator)
    return adapted


def trained(network: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in network.parameters() if parameter.requires_grad]


def test_loras_weights_move_in_bfloat16_as_in_float32(run_points, tmp_path: Path) -> None:
    before = nn.utils.parameters_to_vector(trained(trained_adapter(MLP(in_channels=2, width=16, depth=2))))
    moved = {}
    for precision in ("32-true", "bf16-true"):
        module, _ = run_points(tmp_path / precision, 8, adapter=trained_adapter, lr=1e-6, precision=precision)
        network = module.network
        moved[precision] = (nn.utils.parameters_to_vector(trained(network)) != before).float().mean().item()
    assert {(p.requires_grad, p.dtype) for p in network.parameters()} == {
        (False, torch.bfloat16),
        (True, torch.float32),
    }
    assert moved["32-true"] > 0.9
    assert moved["bf16-true"] == pytest.approx(moved["32-true"], abs=0.02)


@pytest.mark.parametrize(
    ("precision", "adapter", "remedy"),
    [
        ("bf16-true", None, "use bf16-mixed, or adapter=lora"),
        ("16-true", None, "use 16-mixed"),
        ("16-true", trained_adapter, "use 16-mixed"),
    ],
    ids=["all weights in bfloat16", "all weights in float16", "adapters beside float16"],
)
def test_a_precision_that_loses_steps_is_refused(
    precision: str, adapter: Callable[[nn.Module], nn.Module] | None, remedy: str
) -> None:
    network = MLP(in_channels=2, width=16, depth=1)
    with pytest.raises(ValueError, match=f"^trainer.precision={precision}: .*{remedy}"):
        check_trained(adapter(network) if adapter else network, precision)


@pytest.mark.parametrize("precision", ["32-true", "64-true", "bf16-mixed", "16-mixed"])
def test_other_precisions_train_all_weights(precision: str) -> None:
    check_trained(MLP(in_channels=2, width=16, depth=1), precision)


@pytest.mark.parametrize("precision", ["16-mixed", "16"])
def test_float16_is_refused_on_a_cpu(precision: str) -> None:
    """Stable Diffusion XL joins its text embedding of float16 with sizes of float32."""
    with pytest.raises(ValueError, match=r"^trainer\.precision=16-mixed: on a CPU.*use bf16-mixed"):
        check_device(precision, "cpu")
    check_device(precision, "cuda")
    check_device("bf16-mixed", "cpu")


def test_frozen_weights_are_short_inside_the_block_alone() -> None:
    network = trained_adapter(MLP(in_channels=2, width=16, depth=1))
    before = [(p.data_ptr(), p.dtype) for p in network.parameters()]
    with shortened_frozen(network, "bf16-mixed"):
        assert {p.dtype for p in trained(network)} == {torch.float32}
        assert torch.bfloat16 in {p.dtype for p in network.parameters()}
    assert [(p.data_ptr(), p.dtype) for p in network.parameters()] == before
