from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from diffusion_train.adapter.lora import LoRA, lora_layers, merge, targeted
from diffusion_train.network.diffusers_unet import DiffusersUNet
from diffusion_train.network.dit import DiT
from diffusion_train.network.layout import set_memory_format
from diffusion_train.network.mlp import MLP
from diffusion_train.network.unet import UNet
from diffusion_train.training.ema import constant
from diffusion_train.training.weights import load_exactly, trainable_state

DIFFUSERS = {
    "_class_name": "UNet2DConditionModel",
    "sample_size": 8,
    "in_channels": 3,
    "out_channels": 3,
    "block_out_channels": (8, 16),
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "layers_per_block": 1,
    "cross_attention_dim": 12,
    "attention_head_dim": 4,
    "norm_num_groups": 4,
}
COND = {"text": torch.randn(2, 5, 12, generator=torch.Generator().manual_seed(1))}
Case = tuple[nn.Module, Callable[[nn.Module], Tensor]]


def _images(network: nn.Module) -> Tensor:
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    output: Tensor = network(x, torch.tensor([3.0, 700.0]), **COND)
    return output


def _points(network: nn.Module) -> Tensor:
    output: Tensor = network(torch.ones(2, 2), torch.tensor([3.0, 700.0]))
    return output


@pytest.fixture(params=["unet", "dit", "mlp", "diffusers"])
def case(request: pytest.FixtureRequest) -> Case:
    """A network without zeros, as training leaves it, and its output at fixed inputs."""
    torch.manual_seed(0)
    network = {
        "unet": lambda: UNet(3, [8, 16], [1, 1], [False, True], text_dim=12),
        "dit": lambda: DiT(3, 64, 2, text_dim=12),
        "mlp": lambda: MLP(2, 16, 2),
        "diffusers": lambda: DiffusersUNet(DIFFUSERS),
    }[request.param]()
    for parameter in network.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    return network, _points if request.param == "mlp" else _images


def disturb(network: nn.Module) -> nn.Module:
    """Adapters as training leaves them."""
    for layer in lora_layers(network).values():
        nn.init.normal_(layer.lora_B["default"].weight, std=0.1)
    return network


@pytest.mark.parametrize("init", ["kaiming", "gaussian"])
def test_nothing_changes_at_the_start(case: Case, init: str) -> None:
    network, output = case
    before = output(network.requires_grad_(False))  # torch multiplies by a frozen matrix with another kernel
    assert torch.equal(output(LoRA(4, targets=".*", init=init)(network)), before)


def test_scale_0_is_the_base_and_scale_acts_in_proportion(case: Case) -> None:
    network, output = case
    before = output(network.requires_grad_(False))
    base = copy.deepcopy(network)
    disturbed = disturb(LoRA(4, alpha=2, targets=".*")(network)).state_dict()

    def scaled(scale: float, alpha: float) -> nn.Module:
        other = LoRA(4, alpha, ".*", scale=scale)(copy.deepcopy(base))
        other.load_state_dict(disturbed)
        return other

    assert torch.equal(output(scaled(0, 2)), before)
    assert not torch.allclose(output(scaled(1, 2)), before, atol=1e-3)
    torch.testing.assert_close(output(scaled(0.5, 4)), output(scaled(1, 2)), rtol=0, atol=0)


def test_adapters_alone_are_trained_in_float32(case: Case) -> None:
    network, output = case
    names = {name for name, _ in network.named_parameters()}
    disturb(LoRA(2, targets=".*")(network.bfloat16())).float()  # of a half-precision base, run in float32
    output(network).square().mean().backward()
    with_gradient = {name for name, p in network.named_parameters() if p.grad is not None and p.grad.any()}
    assert with_gradient == {name for name, p in network.named_parameters() if ".lora_" in name}
    assert all(not p.requires_grad for name, p in network.named_parameters() if name in names)


def test_adapters_of_a_half_precision_base_are_float32() -> None:
    network = LoRA(2, targets=".*")(MLP(2, 16, 2).bfloat16())
    assert {p.dtype for p in network.parameters() if p.requires_grad} == {torch.float32}
    assert {p.dtype for p in network.parameters() if not p.requires_grad} == {torch.bfloat16}


def test_what_is_saved_and_averaged_are_the_adapters_and_restores_them(case: Case) -> None:
    network, output = case
    fresh = copy.deepcopy(network)
    adapted = disturb(LoRA(2, targets=".*")(network))
    saved = trainable_state(adapted)
    assert saved.keys() == {name for name in adapted.state_dict() if ".lora_" in name}
    ema = constant([0.5])
    ema.attach(adapted)
    assert ema.average().keys() == saved.keys()
    restored = LoRA(2, targets=".*")(fresh)
    load_exactly(restored, saved, trainable_state(restored))
    assert torch.equal(output(restored), output(adapted))


def test_merged_is_the_same_network_without_adapters(case: Case) -> None:
    network, output = case
    names = list(network.state_dict())
    adapted = disturb(LoRA(2, targets=".*", scale=0.7)(network))
    before = output(adapted)
    merged = merge(adapted)
    assert list(merged.state_dict()) == names
    torch.testing.assert_close(output(merged), before, rtol=1e-5, atol=1e-5)


def test_buffers_of_a_frozen_base_are_not_saved() -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    assert "1.running_mean" in trainable_state(network)
    assert set(trainable_state(LoRA(1, targets=["0"])(network))) == {
        "0.lora_A.default.weight",
        "0.lora_B.default.weight",
    }


@pytest.mark.parametrize("compiled", [False, True])
def test_layout_changes_neither_names_nor_output(compiled: bool) -> None:
    torch.manual_seed(0)
    network = disturb(LoRA(2, targets=".*")(UNet(3, [8], [1], [True], text_dim=12)))
    names, before = list(trainable_state(network)), _images(network)
    set_memory_format(network, channels_last=True, compile=False)
    if compiled:
        network.compile(backend="eager")  # as `set_memory_format` does, without a C compiler
    assert list(trainable_state(network)) == names
    torch.testing.assert_close(_images(network), before, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        ("attention", {"middle.attention.attention.qkv", "middle.attention.attention.out"}),
        (["qkv"], {"middle.attention.attention.qkv"}),
        (r"middle\..*qkv", {"middle.attention.attention.qkv"}),
    ],
)
def test_targets_of_our_unet(targets: str | list[str], expected: set[str]) -> None:
    found = targeted(UNet(3, [8, 16], [1, 1], [False, True]), targets)
    assert expected <= set(found)
    assert all(name.rpartition(".")[2] in ("qkv", "out") for name in found)


def test_presets_of_diffusers() -> None:
    network = DiffusersUNet(DIFFUSERS)
    attention = targeted(network, "attention")
    assert {name.split("attn")[-1][2:] for name in attention} == {"to_q", "to_k", "to_v", "to_out.0"}
    more = set(targeted(network, "attention_and_convolutions")) - set(attention)
    assert "unet.down_blocks.0.resnets.0.conv1" in more
    assert all("time_emb" not in name for name in more)
    assert not more & {"unet.conv_in", "unet.conv_out"}  # kohya's set has no place for them
    assert targeted(network, ["conv_in", "conv_out"]) == ["unet.conv_in", "unet.conv_out"]


@pytest.mark.parametrize("targets", ["attention", ["up", "to_q"], "blocks"])
def test_a_target_that_nothing_fits_is_told_with_what_there_is(targets: str | list[str]) -> None:
    with pytest.raises(ValueError, match=r"no layer of MLP matches.*down, head\.1, mlp\.0.*modulation, stem, up;"):
        targeted(MLP(2, 16, 1), targets)


@pytest.mark.parametrize(
    ("settings", "key"),
    [({"rank": 0}, "rank"), ({"dropout": 1.0}, "dropout"), ({"init": "pissa"}, "init")],
)
def test_impossible_settings_are_named(settings: dict[str, object], key: str) -> None:
    with pytest.raises(ValueError, match=f"adapter.{key}"):
        LoRA(**settings)  # type: ignore[arg-type]


def test_a_pattern_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="not a regular expression"):
        targeted(MLP(2, 16, 1), "(")
