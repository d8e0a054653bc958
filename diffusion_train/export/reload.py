"""Loads an export as any user of diffusers does, in a separate process: `python -m diffusion_train.export.reload CASE`.

It uses nothing of this package except readers of JSON and of file names. CASE is a folder with case.json and
inputs.safetensors. It writes answer.safetensors there: one prediction for the inputs, and the image for the noise and
the prompt.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from safetensors.torch import load_file, save_file

from diffusion_train.pretrained.diffusers_folder import read_json
from diffusion_train.pretrained.weight_files import find

EXACT = {"torch_dtype": torch.float32}  # whatever precision the config of a part names


def main(folder: Path) -> None:
    """Compute the outputs of the case in `folder`."""
    case = json.loads((folder / "case.json").read_text("utf-8"))
    inputs = load_file(folder / "inputs.safetensors", device=case["device"])
    torch.backends.cudnn.allow_tf32 = False
    pipeline = load(case).to(case["device"])
    pipeline.set_progress_bar_config(disable=True)
    with torch.no_grad():
        output = {"prediction": predict(pipeline.unet, inputs), "image": draw(pipeline, case, inputs["noise"])}
        if case["format"] == "lora_peft":
            output["peft"] = predict(with_peft(case).to(case["device"]), inputs)
    save_file({name: value.cpu().contiguous() for name, value in output.items()}, folder / "answer.safetensors")


def load(case: dict[str, Any]) -> Any:
    """Return the diffusers pipeline of an export, on the CPU, without its safety checker."""
    base = Path(case["base"])
    if case["format"] == "diffusers":
        pipeline = diffusers.DiffusionPipeline.from_pretrained(
            case["file"], local_files_only=True, use_safetensors=True, **EXACT
        )
        if getattr(pipeline, "safety_checker", None) is not None:
            pipeline.safety_checker = None  # it paints images black
        return pipeline
    if case["format"] == "single_file":
        pipeline_class = getattr(diffusers, read_json(base / "model_index.json", str(base))["_class_name"])
        given = {"config": str(base), "local_files_only": True, **EXACT, **left_out(base)}
        return pipeline_class.from_single_file(case["file"], **given)
    pipeline = diffusers.DiffusionPipeline.from_pretrained(
        str(base), local_files_only=True, use_safetensors=True, **EXACT, **left_out(base), **variants(base)
    )
    if case["unet"]:
        pipeline.unet = unet(case["unet"])
    file = Path(case["file"])
    options = {"weight_name": file.name} if file.is_file() else {}
    pipeline.load_lora_weights(str(file.parent if file.is_file() else file), local_files_only=True, **options)
    return pipeline


def left_out(base: Path) -> dict[str, None]:
    """Return arguments that leave out missing parts of the base, and the safety checker, which paints images black."""
    names = [
        name
        for name, value in read_json(base / "model_index.json", str(base)).items()
        if isinstance(value, list) and value[0]
    ]
    return {name: None for name in names if name == "safety_checker" or not (base / name).is_dir()}


def variants(base: Path) -> dict[str, Any]:
    """Return the parts of the base that have weights only as a variant, such as model.fp16.safetensors."""
    libraries: dict[str, Any] = {"diffusers": diffusers, "transformers": transformers}
    index = read_json(base / "model_index.json", str(base))
    parts = {name: value for name, value in index.items() if isinstance(value, list) and value[0] in libraries}
    return {
        name: getattr(libraries[library], part).from_pretrained(
            base / name, local_files_only=True, use_safetensors=True, **EXACT, **weights.arguments
        )
        for name, (library, part) in parts.items()
        if (weights := find(base / name)).variant and name != "safety_checker"
    }


def unet(folder: str) -> Any:
    """Load a U-Net from its folder."""
    options: dict[str, Any] = {"local_files_only": True, "use_safetensors": True, **find(Path(folder)).arguments}
    return diffusers.UNet2DConditionModel.from_pretrained(folder, **EXACT, **options)


def with_peft(case: dict[str, Any]) -> Any:
    """Load the U-Net with the adapter as PEFT does."""
    import peft

    return peft.PeftModel.from_pretrained(unet(case["unet"] or str(Path(case["base"]) / "unet")), case["file"])


def predict(model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return the U-Net's output for the inputs of the case."""
    added = {"text_embeds": inputs["pooled"], "time_ids": inputs["size"]} if "size" in inputs else None
    output: torch.Tensor = model(
        inputs["x"], inputs["label"], encoder_hidden_states=inputs["text"], added_cond_kwargs=added
    ).sample
    return output


def draw(pipeline: Any, case: dict[str, Any], noise: torch.Tensor) -> torch.Tensor:
    """Return the image (1, 3, H, W) in [0, 1], sampled by DDIM with trailing steps, not the pipeline's sampler."""
    pipeline.scheduler = diffusers.DDIMScheduler.from_config(
        pipeline.scheduler.config,
        timestep_spacing="trailing",
        set_alpha_to_one=True,
        clip_sample=False,
        thresholding=False,
    )
    image: torch.Tensor = pipeline(
        prompt=case["prompt"],
        latents=noise,
        num_inference_steps=case["num_steps"],
        guidance_scale=case["guidance"],
        height=case["height"],
        width=case["width"],
        output_type="pt",
    ).images
    return image


if __name__ == "__main__":
    main(Path(sys.argv[1]))
