"""Exports the whole model to one file, in the layout of Stable Diffusion's first authors."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from diffusion_train.adapter.lora import merge
from diffusion_train.export import original_names
from diffusion_train.export.exported_model import Model, part_weights
from diffusion_train.pretrained.single_file import LAYOUTS

_ARCHITECTURES = {"sd1": "stable-diffusion-v1", "sd2": "stable-diffusion-v2", "sdxl": "stable-diffusion-xl-v1-base"}


def write(model: Model, folder: Path) -> Path:
    """Write the model, with adapters merged, to a .safetensors file in `folder` and return the file.

    Raises ValueError if the autoencoder does not scale its latents as the published model does.
    """
    _check_latents(model)
    config = merge(model.unet).config
    weights = {name: value.detach().cpu().contiguous() for name, value in model.unet.state_dict().items()}
    tensors = {
        **original_names.unet(weights, config.layers_per_block),
        **original_names.vae(part_weights(model.base / "vae")),
        **_text_encoders(model),
    }
    facts = {"modelspec.architecture": _ARCHITECTURES[model.version], "modelspec.title": model.name}
    facts["modelspec.prediction_type"] = "v" if model.predicts_v else "epsilon"
    if model.predicts_v:  # tools recognize these models by empty tensors
        tensors["v_pred"] = torch.empty(0)
    if model.pipeline.diffusion.schedule.zero_terminal_snr:
        tensors["ztsnr"] = torch.empty(0)
    file = folder / f"{model.name}.safetensors"
    save_file(tensors, file, {"format": "pt", **facts})
    return file


def _check_latents(model: Model) -> None:
    """Raise ValueError if latents are scaled in another way:
    a file has no settings, so tools use the published ones.
    """
    own = json.loads((model.base / "vae" / "config.json").read_text("utf-8"))
    published = json.loads((LAYOUTS / f"{model.version}.json").read_text("utf-8"))["vae"]
    names = ("latents_mean", "latents_std", "scaling_factor")
    differ = [f"{name}={own[name]}" for name in names if own.get(name) not in (None, published.get(name))]
    if differ:
        raise ValueError(
            f"format=single_file: the base's vae/config.json has {', '.join(differ)}, which a single file cannot hold; "
            "use format=diffusers"
        )


def _text_encoders(model: Model) -> dict[str, Tensor]:
    first = model.text_weights("text_encoder")
    if model.version == "sd1":
        return original_names.clip(first, "cond_stage_model.")
    if model.version == "sd2":
        return original_names.open_clip(first, "cond_stage_model.")
    second = model.text_weights("text_encoder_2")
    return original_names.clip(first, "conditioner.embedders.0.") | original_names.open_clip(
        second, "conditioner.embedders.1."
    )
