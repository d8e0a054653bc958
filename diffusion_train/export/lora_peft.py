"""A LoRA as diffusers and PEFT save it: pytorch_lora_weights.safetensors and, for PEFT alone, adapter_model.safetensors."""

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
    import diffusers

    mixin: Any = {"sd": diffusers.StableDiffusionPipeline, "sdxl": diffusers.StableDiffusionXLPipeline}[model.family]
    given: dict[str, Any] = {}
    for part, layers in {"unet": model.adapters, **model.text_adapters}.items():
        given[f"{part}_lora_layers"] = weights_of(layers)
        given[f"{part}_lora_adapter_metadata"] = config_of(model, layers).to_dict()
    mixin.save_lora_weights(folder, **given)
    config_of(model, model.adapters).save_pretrained(folder)
    named = {f"base_model.model.{name}": value for name, value in given["unet_lora_layers"].items()}
    save_file(named, folder / "adapter_model.safetensors", {"format": "pt"})
    return folder


def weights_of(layers: Mapping[str, Any]) -> dict[str, Tensor]:
    """By the names of the layers, A and B of each, in float32 on the CPU."""
    return {
        f"{name}.lora_{side}.weight": matrix["default"].weight.detach().float().cpu().contiguous()
        for name, layer in layers.items()
        for side, matrix in (("A", layer.lora_A), ("B", layer.lora_B))
    }


def rank_and_alpha(model: Model) -> tuple[int, float]:
    """alpha is that at which another tool, which knows no scale of ours, gives our images."""
    layer = next(iter(model.adapters.values()))
    rank = layer.r["default"]
    return rank, layer.scaling["default"] * rank


def config_of(model: Model, layers: Mapping[str, Any]) -> Any:
    """Text encoders are found with and without text_model around them, as versions of transformers differ."""
    import peft

    rank, alpha = rank_and_alpha(model)
    names = "|".join(re.escape(name).replace(r"text_model\.", r"(text_model\.)?", 1) for name in layers)
    return peft.LoraConfig(r=rank, lora_alpha=alpha, target_modules=f"^({names})$", inference_mode=True)  # type: ignore[arg-type]
