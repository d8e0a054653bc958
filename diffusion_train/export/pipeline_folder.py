"""Exports a pipeline in diffusers' layout: trained parts with adapters merged, and copies of the base's other parts."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from safetensors.torch import save_file

from diffusion_train.adapter.lora import merge
from diffusion_train.export.exported_model import Model, part_weights
from diffusion_train.pretrained.weight_files import find


def write(model: Model, folder: Path) -> Path:
    """Write the pipeline to `folder` and return it."""
    unwanted = shutil.ignore_patterns(".*", "*.bin", "*.ckpt", "*.fp16*", "*.bf16*", "*.non_ema*", "*.md", "*.msgpack")
    index = json.loads((model.base / "model_index.json").read_text("utf-8"))
    for name, value in index.items():
        if isinstance(value, list) and name != "unet":
            if (model.base / name).is_dir():
                shutil.copytree(model.base / name, folder / name, ignore=unwanted)
                _fill(model.base / name, folder / name)
            else:  # the base was downloaded without it, such as the safety checker
                index[name] = [None, None]
    if index.get("safety_checker") == [None, None]:
        index["requires_safety_checker"] = False
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n", "utf-8")
    for name in model.text_encoders:
        for file in (folder / name).glob("*.safetensors*"):
            file.unlink()
        save_file(model.text_weights(name), folder / name / "model.safetensors", {"format": "pt"})
    merge(model.unet).save_pretrained(folder / "unet", safe_serialization=True)
    return folder


def _fill(base: Path, folder: Path) -> None:
    """Write the weights of a part under the plain name if it has only a variant, such as fp16."""
    weights = find(base)
    if weights.variant:
        stem = weights.files[0].name.partition(".")[0]
        save_file(part_weights(base), folder / f"{stem}.safetensors", {"format": "pt"})
