"""The parts of a Stable Diffusion pipeline as nodes of a config, read only from its JSON files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from diffusion_train.pretrained import diffusers_folder, scheduler

Nodes = dict[str, Any]


def of_pipeline(layout: Path, source: str, path: str, prediction: str | None = None) -> Nodes:
    """Return config nodes by dotted key; `path` is where the parts will find their weights.

    Raises ValueError if the pipeline's noise schedule or network is not supported, or if it does not predict
    `prediction`.
    """
    kind = diffusers_folder.kind(layout, source)
    unet, vae = (diffusers_folder.read_json(layout / name / "config.json", source) for name in ("unet", "vae"))
    if unet.get("in_channels") != vae.get("latent_channels", 4):
        raise ValueError(
            f"pretrained={source}: its network takes {unet.get('in_channels')} channels, but its latents have "
            f"{vae.get('latent_channels', 4)}; models for inpainting are not supported yet, give a text-to-image model"
        )
    side = unet.get("sample_size") or 64
    factor = 2 ** (len(vae.get("block_out_channels", [0] * 4)) - 1)
    return {
        "network": {
            "_target_": "diffusion_train.network.diffusers_unet.DiffusersUNet",
            "model": path,
            "gradient_checkpointing": False,
        },
        "autoencoder": {"_target_": "diffusion_train.autoencoder.kl.KL", "source": path, "dtype": "float32"},
        "conditioner": _conditioner(kind, path),
        "condition": _condition(kind, layout, source, unet),
        "sampler.clip_x0": False,  # latents are not limited to [-1, 1]
        "data.image_size": (side if isinstance(side, int) else max(side)) * factor,
        **scheduler.nodes(layout / "scheduler" / "scheduler_config.json", source, prediction),
    }


def _conditioner(kind: str, path: str) -> Nodes:
    if kind == "sdxl":
        return {
            "_target_": "diffusion_train.conditioner.sdxl.SDXL",
            "source": path,
            "max_length": 77,
            "max_bytes": 1 << 32,
        }
    return {
        "_target_": "diffusion_train.conditioner.text.text_conditioner.Text",
        "encoder": {
            "_target_": "diffusion_train.conditioner.clip_text.CLIPText",
            "source": path,
            "max_length": 77,
            "subfolder": "text_encoder",
            "tokenizer_subfolder": "tokenizer",
        },
        "max_bytes": 1 << 32,
    }


def _condition(kind: str, layout: Path, source: str, unet: Nodes) -> Nodes:
    pooled = None
    if kind == "sdxl":
        pooled = diffusers_folder.read_json(layout / "text_encoder_2" / "config.json", source).get("projection_dim")
    return {
        "text_dim": unet.get("cross_attention_dim"),
        "pooled_dim": pooled,
        "num_labels": unet.get("num_class_embeds"),
        "concat_channels": 0,
    }
