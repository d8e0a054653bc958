"""A LoRA with the names of kohya's sd-scripts, which ComfyUI and A1111 read.

Layers are those of diffusers with underscores for dots, and of the first authors' layout for XL.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

from diffusion_train.export.lora_peft import rank_and_alpha, weights_of
from diffusion_train.export.model import Model
from diffusion_train.export.original import unet_names

ADAPTERS_ONLY = True
USE = """\
Put `{file}` into `models/loras` of ComfyUI (node "Load LoRA") or `models/Lora` of A1111 (`<lora:{stem}:1>` in the prompt),
with the base model chosen as the checkpoint. In diffusers:

```python
import diffusers

pipeline = diffusers.DiffusionPipeline.from_pretrained("{base}")
pipeline.load_lora_weights("{place}", weight_name="{file}")
pipeline("{prompt}").images[0].save("image.png")
```"""

_BASE_VERSIONS = {"sd1": "sd_v1", "sd2": "sd_v2", "sdxl": "sdxl_base_v1-0"}


def write(model: Model, folder: Path) -> Path:
    rank, alpha = rank_and_alpha(model)
    layers = list(model.adapters)
    names = unet_names(layers, model.unet.config.layers_per_block) if model.family == "sdxl" else {n: n for n in layers}
    weights, tensors = weights_of(model), {}
    for layer in layers:
        name = f"lora_unet_{names[layer].replace('.', '_')}"
        tensors[f"{name}.lora_down.weight"] = weights[f"{layer}.lora_A.weight"]
        tensors[f"{name}.lora_up.weight"] = weights[f"{layer}.lora_B.weight"]
        tensors[f"{name}.alpha"] = torch.tensor(alpha)
    facts = {
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(rank),
        "ss_network_alpha": str(alpha),
        "ss_base_model_version": _BASE_VERSIONS[model.version],
        "ss_v2": str(model.version == "sd2"),
        "ss_output_name": model.name,
    }
    save_file(tensors, folder / f"{model.name}.safetensors", facts)
    return folder / f"{model.name}.safetensors"
