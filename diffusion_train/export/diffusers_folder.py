"""A pipeline in diffusers' layout: the base's parts as they are, and the trained U-Net with adapters merged into it."""

from __future__ import annotations

import shutil
from pathlib import Path

from diffusion_train.adapter.lora import merge
from diffusion_train.export.model import Model

USE = """\
```python
import diffusers

pipeline = diffusers.DiffusionPipeline.from_pretrained("{place}")
pipeline("{prompt}").images[0].save("image.png")
```"""


def write(model: Model, folder: Path) -> Path:
    unwanted = shutil.ignore_patterns("unet", ".*", "*.bin", "*.ckpt", "*.fp16.*", "*.md", "*.non_ema.*", "*.msgpack")
    for part in json_parts(model.base):
        if (model.base / part).is_dir():
            shutil.copytree(model.base / part, folder / part, ignore=unwanted)
    shutil.copy(model.base / "model_index.json", folder)
    merge(model.unet).save_pretrained(folder / "unet", safe_serialization=True)
    return folder


def json_parts(base: Path) -> list[str]:
    """The folders that model_index.json names, but for the U-Net."""
    import json

    index = json.loads((base / "model_index.json").read_text("utf-8"))
    return [name for name, value in index.items() if isinstance(value, list) and name != "unet" and value[0]]
