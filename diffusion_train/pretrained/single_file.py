"""Identifies a model in one .safetensors file with the names of Stable Diffusion's first authors."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from safetensors import SafetensorError, safe_open

from diffusion_train.utils.files import atomic_folder, cache_folder

LAYOUTS = Path(__file__).parent / "layouts"
_UNET = "model.diffusion_model."
_TEXT = f"{_UNET}input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
_BY_TEXT_WIDTH = {768: "sd1", 1024: "sd2"}
_V_SIDE = 96  # side of Stable Diffusion 2's latents if it predicts v; 64 if it predicts epsilon


class Model(NamedTuple):
    """What `identify` finds out about a model."""

    kind: str  # sd1, sd2 or sdxl
    prediction: str  # epsilon or v
    zero_terminal_snr: bool


class Header(NamedTuple):
    """The header of a safetensors file."""

    shapes: dict[str, list[int]]  # of the tensors by their names
    metadata: dict[str, str]


def read_header(path: Path) -> Header:
    """Read the header without reading tensors. Raises ValueError if the file is not a whole safetensors file."""
    try:
        with safe_open(path, "numpy") as file:
            shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
            return Header(shapes, file.metadata() or {})
    except (OSError, SafetensorError) as error:
        raise ValueError(f"pretrained={path}: not a whole safetensors file ({error}); download it again") from error


def identify(path: Path, prediction: str | None = None) -> Model:
    """Return which model a file holds.

    Raises ValueError for an unsupported model, or if `prediction` is needed and missing, or differs from the file's.
    """
    header = read_header(path)
    kind = _kind(path, header.shapes)
    stated = _stated_prediction(header)
    if prediction not in (None, "epsilon", "v"):
        raise ValueError(f"base.prediction={prediction}: must be epsilon or v")
    if stated and prediction not in (None, stated):
        raise ValueError(
            f"base.prediction={prediction}, but pretrained={path} states {stated}; leave base.prediction out"
        )
    predicts = prediction or stated or {"sd1": "epsilon", "sdxl": "epsilon"}.get(kind)
    if predicts is None:
        raise ValueError(
            f"pretrained={path}: Stable Diffusion 2 predicts epsilon (base, 512 pixels) or v (768 pixels), "
            "and the file does not say which; add base.prediction=epsilon or base.prediction=v"
        )
    return Model(kind, predicts, zero_terminal_snr="ztsnr" in header.shapes)


def layout(path: Path, prediction: str | None = None) -> Path:
    """Return a folder in the cache with the configs of the model in diffusers' layout, without weights."""
    model = identify(path, prediction)
    name = f"{model.kind}_{model.prediction}{'_zero_snr' if model.zero_terminal_snr else ''}"
    folder = cache_folder() / "layout" / name
    if not folder.is_dir():
        with atomic_folder(folder) as new:
            write_layout(model, new)
    return folder


def write_layout(model: Model, folder: Path) -> None:
    """Write the configs of the model in diffusers' layout to `folder`."""
    settings = json.loads((LAYOUTS / f"{model.kind}.json").read_text("utf-8"))
    if model.prediction == "v":
        settings["scheduler"]["prediction_type"] = "v_prediction"
        if model.kind == "sd2":
            settings["unet"]["sample_size"] = _V_SIDE
    if model.zero_terminal_snr:
        settings["scheduler"] |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    for name, content in settings.items():
        file = {"model_index": "model_index.json", "scheduler": "scheduler/scheduler_config.json"}.get(name)
        path = folder / (file or f"{name}/config.json")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, indent=2) + "\n", "utf-8")


def _kind(path: Path, shapes: Mapping[str, Sequence[int]]) -> str:
    image, text = shapes.get(f"{_UNET}input_blocks.0.0.weight", ()), shapes.get(_TEXT, ())
    if len(image) == 4 and image[1] != 4:
        raise ValueError(
            f"pretrained={path}: its network takes {image[1]} channels; models for inpainting or editing are not "
            "supported yet, give a text-to-image model"
        )
    if f"{_UNET}label_emb.0.0.weight" in shapes and "conditioner.embedders.1.model.ln_final.weight" in shapes:
        return "sdxl"
    if image and text and text[-1] in _BY_TEXT_WIDTH:
        return _BY_TEXT_WIDTH[text[-1]]
    raise ValueError(
        f"pretrained={path}: its tensors do not have the names of Stable Diffusion 1, 2 or XL{_guess(shapes)}; give "
        "one of those models, or a folder in diffusers' layout"
    )


def _guess(names: Collection[str]) -> str:
    if any("lora_" in name for name in names):
        return ", but those of a LoRA"
    if any(
        name.startswith(("conditioner.embedders.0.model.", "double_blocks.", "model.diffusion_model.double_blocks."))
        or "joint_blocks." in name
        for name in names
    ):
        return ", but those of SDXL's refiner, Stable Diffusion 3 or FLUX"
    if any(name.startswith(("down_blocks.", "encoder.", "text_model.")) for name in names):
        return ", but those of a single part of a model"
    return ""


def _stated_prediction(header: Header) -> str | None:
    """Return the prediction in the modelspec metadata, or v if there is a tensor `v_pred`, as trainers mark it."""
    if "v_pred" in header.shapes:
        return "v"
    stated = header.metadata.get("modelspec.prediction_type", "")
    return {"epsilon": "epsilon", "v": "v", "v_prediction": "v"}.get(stated)
