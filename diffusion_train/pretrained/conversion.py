"""Converts a single file with the first authors' names to a folder in diffusers' layout."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open

from diffusion_train.pretrained import diffusers_folder
from diffusion_train.pretrained.vocabulary import END, Vocabulary
from diffusion_train.utils.files import atomic_folder, cache_folder, file_sha256

_FORMAT = 1  # increased if the same file would be converted differently


def converted(path: Path, layout: Path, tokenizer: str | None) -> Path:
    """Return the converted folder in the cache, after converting if it is missing. Raises ValueError as `convert`."""
    words = Vocabulary.find(tokenizer, path)
    identity = [_FORMAT, file_sha256(path), layout.name, words.fingerprint]
    folder = cache_folder() / "single_file" / hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:32]
    if not folder.is_dir():
        with atomic_folder(folder) as new:
            convert(path, layout, words, new)
    return folder


def convert(path: Path, layout: Path, words: Vocabulary, out: Path) -> None:
    """Write the model to `out`. Raises ValueError unless the file has all weights of the model in `layout`."""
    shutil.copytree(layout, out, dirs_exist_ok=True)
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    kind = diffusers_folder.kind(layout, str(path))
    for name in diffusers_folder.WEIGHTS[kind]:
        settings = json.loads((layout / name / "config.json").read_text("utf-8"))
        model = empty_model(settings)
        _fill(model, renamed(name, model, settings, tensors), path, name)
        model.save_pretrained(out / name)
    for name in diffusers_folder.TOKENIZERS[kind]:
        open_clip = _prefix(name.replace("tokenizer", "text_encoder"), tensors).endswith("model.")
        words.write(out / name, pad="!" if open_clip else END)


def empty_model(settings: dict[str, Any]) -> Any:
    """Return the model of a part's config, on the meta device: without memory for its weights."""
    import diffusers
    import torch
    import transformers

    with torch.device("meta"):
        if "_class_name" in settings:
            return getattr(diffusers, settings["_class_name"]).from_config(settings)
        return getattr(transformers, settings["architectures"][0])(transformers.CLIPTextConfig.from_dict(settings))


def renamed(name: str, model: Any, settings: dict[str, Any], tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Return the weights of the part `name`, of `model` with config `settings`, under diffusers' names.

    Weights that the file lacks are missing in the result; `_fill` reports them.
    """
    from diffusers.loaders import single_file_utils as original

    if name in ("unet", "vae"):
        to_diffusers: Any = getattr(original, f"convert_ldm_{name}_checkpoint")
        try:
            return dict(to_diffusers(dict(tensors), settings))
        except KeyError as error:
            return {f"{error} (named as in the file)": None}
    prefix = _prefix(name, tensors)
    if prefix.endswith("model."):
        found = original.convert_open_clip_checkpoint(model, dict(tensors), prefix)
    else:
        found = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
    bare = {key.removeprefix("text_model."): value for key, value in found.items()}  # which not all have
    return {
        key: bare[key.removeprefix("text_model.")]
        for key in model.state_dict()
        if key.removeprefix("text_model.") in bare
    }


def _prefix(text_encoder: str, tensors: Mapping[str, Any]) -> str:
    """Return the prefix of a text encoder's names; they end in "model." for OpenCLIP, else in "transformer."."""
    if any(key.startswith("conditioner.") for key in tensors):
        return {"text_encoder": "conditioner.embedders.0.transformer."}.get(
            text_encoder, "conditioner.embedders.1.model."
        )
    open_clip = any(key.startswith("cond_stage_model.model.") for key in tensors)
    return "cond_stage_model.model." if open_clip else "cond_stage_model.transformer."


def _fill(model: Any, weights: dict[str, Any], path: Path, name: str) -> None:
    expected = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    wrong = [key for key, shape in expected.items() if key not in weights or tuple(weights[key].shape) != shape]
    wrong += [key for key in weights if key not in expected]
    if wrong:
        raise ValueError(
            f"pretrained={path}: {len(wrong)} weights of its {name} are missing, unknown or of another shape (first: "
            f"{wrong[0]}); download the file again, or give the model as a folder in diffusers' layout"
        )
    model.load_state_dict(weights, assign=True)
