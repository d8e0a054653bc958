"""Refuses a model if a key of one of its configs would change what it does, and is not supported."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from diffusion_train.pretrained.config_keys import diffusers_keys, pipeline_keys, text_keys
from diffusion_train.pretrained.config_keys.base import refuse
from diffusion_train.pretrained.diffusers_folder import INDEX, TOKENIZERS, WEIGHTS, read_json, read_mapping

KEYS = {
    "AutoencoderKL": diffusers_keys.AUTOENCODER_KL,
    "UNet2DModel": diffusers_keys.UNET_2D,
    "UNet2DConditionModel": diffusers_keys.UNET_2D_CONDITION,
    "CLIPTextModel": text_keys.CLIP_TEXT,
    "CLIPTextModelWithProjection": text_keys.CLIP_TEXT,
    "T5EncoderModel": text_keys.T5_ENCODER,
}
_TOKENIZER_FILE = "tokenizer_config.json"


def check_model(name: str, config: Mapping[str, Any], where: str) -> None:
    """Raises ValueError, which names `where`, for keys of the config of a model of the class `name`."""
    refuse(_of_model(name, config), where)


def check_text_encoder(name: str, weights: Path, tokenizer: Path) -> None:
    """Raises ValueError, which names the folders, for keys of an encoder of the class `name` and of its tokenizer."""
    check_model(name, read_mapping(weights / "config.json", str(weights)), f"{weights}: config.json")
    refuse(_of_tokenizer(tokenizer, str(tokenizer)), str(tokenizer))


def of_pipeline(kind: str, layout: Path, source: str) -> Iterator[str]:
    """Yield what is wrong with keys of all configs of a pipeline but the scheduler's, each with its file."""
    yield from _in(INDEX, pipeline_keys.problems(kind, read_json(layout / INDEX, source)))
    for name in WEIGHTS[kind]:
        config = read_json(layout / name / "config.json", source)
        yield from _in(f"{name}/config.json", _of_model(pipeline_keys.PARTS_OF_XL[name][0], config))
        if name == "vae":
            yield from _in("vae/config.json", _not_applied(kind, config))
    for name in TOKENIZERS[kind]:
        yield from _of_tokenizer(layout / name, f"pretrained={source}")


def _of_model(name: str, config: Mapping[str, Any]) -> Iterator[str]:
    of_text = config.get("text_config") if KEYS[name] is text_keys.CLIP_TEXT else None  # of a whole CLIP model
    yield from KEYS[name].problems(of_text if isinstance(of_text, dict) else config)


def _of_tokenizer(folder: Path, where: str) -> Iterator[str]:
    if (folder / _TOKENIZER_FILE).is_file():
        config = read_mapping(folder / _TOKENIZER_FILE, where)
        yield from _in(f"{folder.name}/{_TOKENIZER_FILE}", text_keys.TOKENIZER.problems(config))


def _not_applied(kind: str, vae: Mapping[str, Any]) -> Iterator[str]:
    """Yield the keys of an autoencoder that diffusers does not apply in this kind of pipeline."""
    for key in ("shift_factor", *(["latents_mean", "latents_std"] if kind == "sd" else [])):
        if vae.get(key):
            yield (
                f"{key}={vae[key]}: pipelines of Stable Diffusion{' XL' * (kind == 'sdxl')} do not apply it "
                "in diffusers, so images of an export would differ; set it to null"
            )


def _in(file: str, problems: Iterator[str]) -> Iterator[str]:
    return (f"{file}: {problem}" for problem in problems)
