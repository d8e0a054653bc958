from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from diffusion_train.network.diffusers_unet import DiffusersUNet

T = torch.tensor([3.0, 500.0])
BLOCKS = {"block_out_channels": [8, 16], "layers_per_block": 1, "norm_num_groups": 4, "sample_size": 8}
PLAIN = BLOCKS | {
    "_class_name": "UNet2DModel",
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
    "attention_head_dim": 8,
    "num_class_embeds": 4,
}
TEXT = BLOCKS | {
    "_class_name": "UNet2DConditionModel",
    "in_channels": 5,
    "out_channels": 3,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
    "cross_attention_dim": 12,
    "attention_head_dim": 8,
}
XL = TEXT | {
    "in_channels": 3,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 4,
    "projection_class_embeddings_input_dim": 6 + 6 * 4,
}


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


X, WORDS, MASK = draw(2, 3, 8, 8), draw(2, 5, 12), torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]).bool()
PLAIN_COND = {"label": torch.tensor([0, 3])}
TEXT_COND = {"text": WORDS, "text_mask": MASK, "concat": draw(2, 2, 8, 8)}
XL_COND = {"text": WORDS, "text_mask": MASK, "pooled": draw(2, 6), "size": torch.tensor([[8.0, 8, 0, 0, 8, 8]] * 2)}
CASES = {"plain": (PLAIN, PLAIN_COND), "text": (TEXT, TEXT_COND), "xl": (XL, XL_COND)}


def own_forward(model: Any, cond: dict[str, Tensor]) -> Tensor:
    """The model called by hand, as diffusers documents it."""
    if "label" in cond:
        return model(X, T, class_labels=cond["label"]).sample
    added = {"text_embeds": cond["pooled"], "time_ids": cond["size"]} if "pooled" in cond else None
    x = torch.cat([X, cond["concat"]], 1) if "concat" in cond else X
    return model(x, T, cond["text"], encoder_attention_mask=cond["text_mask"], added_cond_kwargs=added).sample


@pytest.mark.parametrize("case", CASES)
def test_equals_the_models_own_forward(case: str) -> None:
    config, cond = CASES[case]
    network = DiffusersUNet(config)
    torch.testing.assert_close(network(X, T, **cond), own_forward(network.unet, cond), rtol=0, atol=0)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("subfolder", ["", "unet"], ids=["model", "pipeline"])
def test_loads_what_diffusers_saved(case: str, subfolder: str, tmp_path: Path) -> None:
    config, cond = CASES[case]
    model = DiffusersUNet(config).unet
    model.save_pretrained(tmp_path / subfolder)
    network = DiffusersUNet(str(tmp_path))
    assert network.unet.training
    torch.testing.assert_close(network(X, T, **cond), DiffusersUNet(model)(X, T, **cond), rtol=0, atol=0)


@pytest.mark.parametrize("name", ["text", "pooled", "size"])
def test_each_condition_matters_and_must_be_there(name: str) -> None:
    network = DiffusersUNet(XL)
    changed = XL_COND | {name: XL_COND[name] + 1}
    assert (network(X, T, **XL_COND) - network(X, T, **changed)).abs().max() > 1e-6
    with pytest.raises(ValueError, match=f"without `{name}`"):
        network(X, T, **{k: v for k, v in XL_COND.items() if k != name})


def test_masked_text_does_not_matter() -> None:
    network = DiffusersUNet(TEXT)
    noisy = TEXT_COND | {"text": WORDS + ~MASK[..., None]}
    torch.testing.assert_close(network(X, T, **noisy), network(X, T, **TEXT_COND), rtol=0, atol=1e-6)


def test_label_must_be_there() -> None:
    with pytest.raises(ValueError, match="without `label`"):
        DiffusersUNet(PLAIN)(X, T)


def test_missing_channels_are_named() -> None:
    with pytest.raises(ValueError, match=r"takes 5 channels and x has 3.*other 2, got 0"):
        DiffusersUNet(TEXT)(X, T, text=WORDS)


def test_gradient_checkpointing_changes_no_gradient() -> None:
    network = DiffusersUNet(PLAIN)
    checkpointed = DiffusersUNet(PLAIN, gradient_checkpointing=True)
    checkpointed.load_state_dict(network.state_dict())
    assert checkpointed.unet.is_gradient_checkpointing
    for each in (network, checkpointed):
        each(X, T, **PLAIN_COND).square().mean().backward()
    gradients = [{n: p.grad for n, p in each.named_parameters()} for each in (network, checkpointed)]
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-6)


def test_double_precision() -> None:
    cond = {k: v.double() if v.is_floating_point() else v for k, v in TEXT_COND.items()}
    assert DiffusersUNet(TEXT).double()(X.double(), T, **cond).dtype == torch.float64


@pytest.mark.parametrize("name", ["AutoencoderKL", "os", None])
def test_other_classes_are_refused(name: str | None) -> None:
    with pytest.raises(ValueError, match="_class_name must be one of UNet2DModel"):
        DiffusersUNet({"_class_name": name})


def test_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds a config\.json"):
        DiffusersUNet(tmp_path)


def test_unknown_condition_is_a_type_error_naming_it() -> None:
    with pytest.raises(TypeError, match="lable"):
        DiffusersUNet(PLAIN)(X, T, lable=T)


def test_weights_of_half_precision_are_trained_in_float32(tmp_path: Path) -> None:
    half = DiffusersUNet(PLAIN).unet.half()
    half.save_pretrained(tmp_path)
    weights = DiffusersUNet(tmp_path).unet.state_dict()
    assert {value.dtype for value in weights.values()} == {torch.float32}
    assert all(torch.equal(value, weights[name].half()) for name, value in half.state_dict().items())


def test_loading_leaves_the_global_generator_alone(tmp_path: Path) -> None:
    DiffusersUNet(PLAIN).unet.save_pretrained(tmp_path)
    state = torch.random.get_rng_state()
    DiffusersUNet(tmp_path)
    assert torch.equal(torch.random.get_rng_state(), state)
