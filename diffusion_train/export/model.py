"""What is exported: a trained pipeline of ours, and the folder in diffusers' layout that it was built from."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from diffusion_train.adapter.lora import lora_layers
from diffusion_train.network.diffusers_unet import DiffusersUNet
from diffusion_train.pipeline import Pipeline

FAMILIES = {"StableDiffusionPipeline": "sd", "StableDiffusionXLPipeline": "sdxl"}


@dataclass(frozen=True)
class Model:
    """`own_base` says that the weights beside an adapter are not those of `base`, but of another run of ours."""

    pipeline: Pipeline
    base: Path
    name: str
    own_base: bool = False

    @property
    def unet(self) -> Any:
        assert isinstance(self.pipeline.network, DiffusersUNet)
        return self.pipeline.network.unet

    @cached_property
    def family(self) -> str:
        """sd or sdxl."""
        return FAMILIES[str(json.loads((self.base / "model_index.json").read_text("utf-8"))["_class_name"])]

    @cached_property
    def version(self) -> str:
        """sd1, sd2 or sdxl: 1 and 2 differ in whose text encoder they have, OpenAI's CLIP or OpenCLIP."""
        text = json.loads((self.base / "text_encoder" / "config.json").read_text("utf-8"))
        return "sdxl" if self.family == "sdxl" else "sd1" if text.get("hidden_act") == "quick_gelu" else "sd2"

    @property
    def predicts_v(self) -> bool:
        return type(self.pipeline.diffusion.parameterization).__name__ == "V"

    @property
    def adapters(self) -> dict[str, Any]:
        """Layers of the U-Net with an adapter, by their names in it."""
        return lora_layers(self.unet)


def base_folder(node: Any, network: Any) -> Path:
    """Of the `network` node of a run's config. ValueError where the run is of no pipeline of diffusers."""
    if not isinstance(network, DiffusersUNet):
        raise ValueError(
            f"network: {type(network).__name__} is a network of diffusion_train, which diffusers does not know; only runs "
            "on Stable Diffusion can be exported (experiment=sd15_lora, sd15_full, sdxl_lora). The run folder itself is "
            "whole: sample.py and pretrained= read it"
        )
    model = node.get("model")
    folders = [Path(model), Path(model).parent] if isinstance(model, str) else []
    for folder in folders:
        index = folder / "model_index.json"
        if index.is_file():
            name = json.loads(index.read_text("utf-8")).get("_class_name")
            if name in FAMILIES:
                return folder
            raise ValueError(f"network.model={model}: {name} cannot be exported; {' and '.join(FAMILIES)} can")
    raise ValueError(
        f"network.model={model}: no pipeline of diffusers stands there, so that text encoder and autoencoder of the export "
        "are not known; give network.model=<folder with model_index.json>"
    )
