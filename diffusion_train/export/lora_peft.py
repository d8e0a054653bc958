"""Exports a LoRA as diffusers and PEFT save it.

Diffusers loads pytorch_lora_weights.safetensors, PEFT adapter_model.safetensors, which holds only the U-Net's layers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from diffusion_train.export.exported_model import Model

ADAPTERS_ONLY = True


def write(model: Model, folder: Path) -> Path:
    """Write the LoRA for diffusers and PEFT to `folder` and return it."""
    import diffusers

    mixin: Any = {"sd": diffusers.StableDiffusionPipeline, "sdxl": diffusers.StableDiffusionXLPipeline}[model.family]
    arguments: dict[str, Any] = {}
    for part, layers in {"unet": model.adapters, **model.text_adapters}.items():
        arguments[f"{part}_lora_layers"] = weights_of(layers)
        arguments[f"{part}_lora_adapter_metadata"] = config_of(model, layers).to_dict()
    mixin.save_lora_weights(folder, **arguments)
    config_of(model, model.adapters).save_pretrained(folder)
    named = {f"base_model.model.{name}": value for name, value in arguments["unet_lora_layers"].items()}
    save_file(named, folder / "adapter_model.safetensors", {"format": "pt"})
    return folder


def weights_of(layers: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the matrices A and B of each layer, in float32 on the CPU, under the names of PEFT."""
    return {
        f"{name}.lora_{side}.weight": matrix["default"].weight.detach().float().cpu().contiguous()
        for name, layer in layers.items()
        for side, matrix in (("A", layer.lora_A), ("B", layer.lora_B))
    }


def rank_and_alpha(model: Model) -> tuple[int, float]:
    """Return rank and alpha; alpha includes our `adapter.scale`, which other tools do not have."""
    layer = next(iter(model.adapters.values()))
    rank = layer.r["default"]
    return rank, layer.scaling["default"] * rank


def config_of(model: Model, layers: Mapping[str, Any]) -> Any:
    """Return PEFT's config of the layers; text encoder layers match with and without the prefix text_model.

    Versions of transformers differ in that prefix.
    """
    import peft

    rank, alpha = rank_and_alpha(model)
    names = "|".join(re.escape(name).replace(r"text_model\.", r"(text_model\.)?", 1) for name in layers)
    return peft.LoraConfig(r=rank, lora_alpha=alpha, target_modules=f"^({names})$", inference_mode=True)  # type: ignore[arg-type]
