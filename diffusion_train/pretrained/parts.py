"""The parts of a Stable Diffusion pipeline as nodes of a config, read only from its JSON files."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import Any

from diffusion_train.pretrained import diffusers_folder, foreign_keys, scheduler
from diffusion_train.pretrained.config_keys.base import refuse

Nodes = dict[str, Any]
SCHEDULER = Path("scheduler", "scheduler_config.json")


def of_pipeline(layout: Path, source: str, path: str, prediction: str | None = None) -> Nodes:
    """Return config nodes by dotted key; `path` is where the parts will find their weights.

    Raises ValueError if the pipeline's noise schedule or network is not supported, or if it does not predict
    `prediction`.
    """
    kind = diffusers_folder.kind(layout, source)
    _check_keys(kind, layout, source)
    unet, vae = (diffusers_folder.read_json(layout / name / "config.json", source) for name in ("unet", "vae"))
    _check_channels(unet, vae, source)
    side = unet.get("sample_size") or 64
    factor = 2 ** (len(vae.get("block_out_channels", [0] * 4)) - 1)
    return {
        "network": {
            "_target_": "diffusion_train.network.diffusers_unet.DiffusersUNet",
            "model": path,
            "gradient_checkpointing": False,
        },
        "autoencoder": {"_target_": "diffusion_train.autoencoder.kl.KL", "source": path, "dtype": "float32"},
        "conditioner": _conditioner(kind, path, _max_length(kind, layout, source)),
        "condition": _condition(kind, layout, source, unet),
        "sampler.clip_x0": False,  # latents are not limited to [-1, 1]
        "data.image_size": (side if isinstance(side, int) else max(side)) * factor,
        **_diffusion(kind, layout, source, prediction),
    }


def _check_channels(unet: Nodes, vae: Nodes, source: str) -> None:
    channels, latents = unet.get("in_channels", 4), vae.get("latent_channels", 4)
    if channels != latents:
        raise ValueError(
            f"pretrained={source}: its network takes {channels} channels, but its latents have {latents}; models for "
            "inpainting are not supported yet, give a text-to-image model"
        )
    if unet.get("out_channels", 4) != latents:
        raise ValueError(
            f"pretrained={source}: its network returns {unet['out_channels']} channels, but its latents "
            f"have {latents}; models that predict a variance are not supported, give another model"
        )


def _check_keys(kind: str, layout: Path, source: str) -> None:
    """Raises ValueError that lists every key that is not supported, of all configs."""
    name = _scheduler_class(layout, source)
    of_scheduler = scheduler.problems(layout / SCHEDULER, source, name, kind)
    refuse(chain(foreign_keys.of_pipeline(kind, layout, source), of_scheduler), f"pretrained={source}")


def _diffusion(kind: str, layout: Path, source: str, prediction: str | None) -> Nodes:
    name = _scheduler_class(layout, source)
    return scheduler.nodes(layout / SCHEDULER, source, prediction, name, kind)


def _scheduler_class(layout: Path, source: str) -> str | None:
    """Return the class in the pipeline's index, which diffusers loads whatever the scheduler's file says."""
    entry = diffusers_folder.read_json(layout / diffusers_folder.INDEX, source).get("scheduler")
    return str(entry[1]) if isinstance(entry, list) and len(entry) == 2 and entry[1] else None


def _max_length(kind: str, layout: Path, source: str) -> int:
    """Return the number of tokens that the pipeline gives its text encoders."""
    lengths = {name: _num_tokens(layout, name, source) for name in diffusers_folder.TOKENIZERS[kind]}
    if len(set(lengths.values())) > 1:
        stated = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise ValueError(
            f"pretrained={source}: its tokenizers must have the same model_max_length in tokenizer_config.json, got "
            f"{stated}; correct the files"
        )
    return min(lengths.values())


def _num_tokens(layout: Path, tokenizer: str, source: str) -> int:
    file = layout / tokenizer / "tokenizer_config.json"
    encoder = layout / tokenizer.replace("tokenizer", "text_encoder") / "config.json"
    positions = int(diffusers_folder.read_json(encoder, source).get("max_position_embeddings", 77))
    stated = diffusers_folder.read_json(file, source).get("model_max_length") if file.is_file() else None
    return min(int(stated or positions), positions)


def _conditioner(kind: str, path: str, max_length: int) -> Nodes:
    if kind == "sdxl":
        return {
            "_target_": "diffusion_train.conditioner.sdxl.SDXL",
            "source": path,
            "max_length": max_length,
            "max_bytes": 1 << 32,
        }
    return {
        "_target_": "diffusion_train.conditioner.text.text_conditioner.Text",
        "encoder": {
            "_target_": "diffusion_train.conditioner.clip_text.CLIPText",
            "source": path,
            "max_length": max_length,
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
