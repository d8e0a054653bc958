"""diffusers reads the first authors' layout by converters of its own: what we write must come out of them unchanged."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from diffusion_train.export import original_names

single_file_utils = pytest.importorskip("diffusers.loaders.single_file_utils")
NAMES = ("sd15", "sd2_v", "sdxl")


def weights(folder: Path) -> dict[str, Tensor]:
    return load_file(next(folder.glob("*.safetensors")))


def config(folder: Path) -> dict[str, object]:
    settings: dict[str, object] = json.loads((folder / "config.json").read_text())
    return settings


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


@pytest.mark.parametrize("name", NAMES)
def test_unet(tiny: Callable[[str], Path], name: str) -> None:
    folder = tiny(name) / "unet"
    expected, settings = weights(folder), config(folder)
    written = original_names.unet(expected, int(str(settings["layers_per_block"])))
    assert len(written) == len(expected)
    assert_same(single_file_utils.convert_ldm_unet_checkpoint(written, settings), expected)


def test_names_of_the_published_unet(tiny: Callable[[str], Path]) -> None:
    """As they stand in v1-5-pruned.safetensors."""
    written = original_names.unet(weights(tiny("sd15") / "unet"), 2)
    assert {
        "model.diffusion_model.input_blocks.3.0.op.weight",
        "model.diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_k.weight",
        "model.diffusion_model.output_blocks.2.1.conv.weight",
        "model.diffusion_model.output_blocks.5.2.conv.bias",
        "model.diffusion_model.output_blocks.11.0.skip_connection.weight",
        "model.diffusion_model.time_embed.2.bias",
        "model.diffusion_model.out.2.weight",
    } <= written.keys()


@pytest.mark.parametrize("name", NAMES)
def test_vae(tiny: Callable[[str], Path], name: str) -> None:
    folder = tiny(name) / "vae"
    expected = weights(folder)
    written = original_names.vae(expected)
    assert written["first_stage_model.decoder.mid.attn_1.q.weight"].shape[2:] == (1, 1)
    assert_same(single_file_utils.convert_ldm_vae_checkpoint(written, config(folder)), expected)


@pytest.mark.parametrize("name", ["sd15", "sdxl"])
def test_clip(tiny: Callable[[str], Path], name: str) -> None:
    expected = weights(tiny(name) / "text_encoder")
    written = original_names.clip(expected, "cond_stage_model.")
    assert_same(single_file_utils.convert_ldm_clip_checkpoint(written), expected)


@pytest.mark.parametrize(
    ("name", "part", "prefix"),
    [("sd2_v", "text_encoder", "cond_stage_model."), ("sdxl", "text_encoder_2", "conditioner.embedders.1.")],
)
def test_open_clip(tiny: Callable[[str], Path], name: str, part: str, prefix: str) -> None:
    folder = tiny(name) / part
    expected = weights(folder)
    written = original_names.open_clip(expected, prefix)
    assert f"{prefix}model.transformer.resblocks.1.attn.in_proj_weight" in written
    model = SimpleNamespace(config=SimpleNamespace(hidden_size=config(folder)["hidden_size"]))
    assert_same(single_file_utils.convert_open_clip_checkpoint(model, written, f"{prefix}model."), expected)
