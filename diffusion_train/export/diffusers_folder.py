"""A pipeline in diffusers' layout: the base's parts as they are, and the trained U-Net with adapters merged into it."""

from __future__ import annotations

import json
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
    unwanted = shutil.ignore_patterns(".*", "*.bin", "*.ckpt", "*.fp16.*", "*.non_ema.*", "*.md", "*.msgpack")
    for part in other_parts(model.base):
        shutil.copytree(model.base / part, folder / part, ignore=unwanted)
    shutil.copy(model.base / "model_index.json", folder)
    merge(model.unet).save_pretrained(folder / "unet", safe_serialization=True)
    return folder


def other_parts(base: Path) -> list[str]:
    """The folders that model_index.json names, but for the U-Net's."""
    index = json.loads((base / "model_index.json").read_text("utf-8"))
    return [name for name in index if name != "unet" and (base / name).is_dir()]
