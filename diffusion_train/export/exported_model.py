"""The model to export: a trained pipeline, and the folder in diffusers' layout that it was built from."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor, nn

from diffusion_train.adapter.lora import lora_layers, merge
from diffusion_train.conditioner.text.online_text import OnlineText
from diffusion_train.network.diffusers_unet import DiffusersUNet
from diffusion_train.pipeline import Pipeline
from diffusion_train.pretrained import diffusers_folder
from diffusion_train.pretrained.weight_files import find_whole


@dataclass(frozen=True)
class Model:
    """A trained pipeline with the folder `base` that it was built from.

    `own_base` says that the frozen weights of an adapter are not those of `base`, but of another run.
    """

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
        """The kind of pipeline, sd or sdxl."""
        return diffusers_folder.kind(self.base, str(self.base))

    @cached_property
    def version(self) -> str:
        """sd1, sd2 or sdxl. Their text encoder distinguishes 1 and 2, OpenAI's CLIP or OpenCLIP."""
        text = json.loads((self.base / "text_encoder" / "config.json").read_text("utf-8"))
        return "sdxl" if self.family == "sdxl" else "sd1" if text.get("hidden_act") == "quick_gelu" else "sd2"

    @property
    def predicts_v(self) -> bool:
        return type(self.pipeline.diffusion.parameterization).__name__ == "V"

    @property
    def adapters(self) -> dict[str, Any]:
        """The layers of the U-Net with an adapter, by their names in it."""
        return lora_layers(self.unet)

    @property
    def text_encoders(self) -> dict[str, nn.Module]:
        """The text encoders that were trained, by their names in the pipeline."""
        online = [module for module in self.pipeline.conditioner.modules() if isinstance(module, OnlineText)]
        return dict(online[0].named_children()) if online else {}

    @property
    def text_adapters(self) -> dict[str, dict[str, Any]]:
        """For each of `text_encoders`, its layers with an adapter by their published names."""
        return {name: lora_layers(encoder) for name, encoder in self.text_encoders.items()}

    def text_weights(self, name: str) -> dict[str, Tensor]:
        """Return the weights of the text encoder `name` under the names of the base's file, with adapters merged."""
        weights = part_weights(self.base / name)
        if name not in self.text_encoders:
            return weights
        changed = {f"{layer}.weight" for layer in self.text_adapters[name]}
        merged = merge(self.text_encoders[name]).state_dict()
        published = {
            key: key if key.startswith(("text_model.", "text_projection.")) else f"text_model.{key}" for key in weights
        }
        assert changed <= set(published.values())
        return {
            key: merged[published[key]].cpu().contiguous() if published[key] in changed else value
            for key, value in weights.items()
        }


def base_folder(node: Any, network: Any) -> Path:
    """Return the pipeline folder of `node`, the network node of a run's config.

    Raises ValueError if the run is not based on a diffusers pipeline that can be exported.
    """
    if not isinstance(network, DiffusersUNet):
        raise ValueError(  # noqa: TRY004
            f"network: diffusers cannot load {type(network).__name__}, a network of diffusion_train; only runs on "
            "Stable Diffusion can be exported (experiment=sd15_lora, sd15_full, sdxl_lora). Use sample.py or "
            "pretrained= with the run folder instead"
        )
    model = node.get("model")
    folders = [Path(model), Path(model).parent] if isinstance(model, str) else []
    base = next((folder for folder in folders if (folder / "model_index.json").is_file()), None)
    if base is None:
        raise ValueError(
            f"network.model={model}: must be in the folder of a diffusers pipeline, which has the text encoder and the "
            "autoencoder; give network.model=<folder with model_index.json>"
        )
    diffusers_folder.check_contents(base, f"network.model={model}")
    name = json.loads((base / "model_index.json").read_text("utf-8")).get("_class_name")
    if name not in diffusers_folder.KINDS:
        known = " and ".join(diffusers_folder.KINDS)
        raise ValueError(f"network.model={model}: {name} cannot be exported; {known} can")
    return base


def part_weights(folder: Path) -> dict[str, Tensor]:
    """Return the weights of a part from one file or several, in full precision if it has them."""
    files = find_whole(folder, str(folder)).files
    return {name: value.contiguous() for file in files for name, value in load_file(file).items()}
