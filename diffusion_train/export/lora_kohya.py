"""Exports a LoRA with the names of kohya's sd-scripts, which ComfyUI and A1111 read.

Layers have their diffusers names with underscores for dots; the U-Net of XL has those of the first authors' layout.
sd-scripts adapts the U-Net's attention, residual blocks, downsamplers and upsamplers alone (`networks/lora.py`), so
some tools ignore the keys of other layers. The file still contains them, and `unusual_keys` names them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from diffusion_train.export.exported_model import Model
from diffusion_train.export.lora_peft import rank_and_alpha, weights_of
from diffusion_train.export.original_names import unet_names

ADAPTERS_ONLY = True

_TEXT_ENCODERS = {
    "sd": {"text_encoder": "lora_te"},
    "sdxl": {"text_encoder": "lora_te1", "text_encoder_2": "lora_te2"},
}
_BLOCKS = {"attentions", "resnets", "downsamplers", "upsamplers"}
_BASE_VERSIONS = {"sd1": "sd_v1", "sd2": "sd_v2", "sdxl": "sdxl_base_v1-0"}


def write(model: Model, folder: Path) -> Path:
    """Write the LoRA to a .safetensors file in `folder` and return the file."""
    rank, alpha = rank_and_alpha(model)
    layers = dict(_layers(model))
    tensors = {
        name.replace("lora_A", "lora_down").replace("lora_B", "lora_up"): value
        for name, value in weights_of(layers).items()
    }
    tensors |= {f"{name}.alpha": torch.tensor(alpha) for name in layers}
    facts = {
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(rank),
        "ss_network_alpha": str(alpha),
        "ss_base_model_version": _BASE_VERSIONS[model.version],
        "ss_v2": str(model.version == "sd2"),
        "ss_output_name": model.name,
    }
    save_file(tensors, folder / f"{model.name}.safetensors", facts)
    return folder / f"{model.name}.safetensors"


def unusual_keys(model: Model) -> list[str]:
    """Return the keys, without endings such as ".alpha", of the layers that sd-scripts does not adapt."""
    return sorted(key for name, key in _unet_keys(model).items() if not _BLOCKS & set(name.split(".")))


def _layers(model: Model) -> Iterator[tuple[str, Any]]:
    for name, key in _unet_keys(model).items():
        yield key, model.adapters[name]
    for encoder, layers in model.text_adapters.items():
        for name, layer in layers.items():
            yield f"{_TEXT_ENCODERS[model.family][encoder]}_{name}".replace(".", "_"), layer


def _unet_keys(model: Model) -> dict[str, str]:
    modules = [name for name, _ in model.unet.named_modules()] if model.family == "sdxl" else []
    names = unet_names(modules, model.unet.config.layers_per_block)
    return {name: f"lora_unet_{names.get(name, name)}".replace(".", "_") for name in model.adapters}
