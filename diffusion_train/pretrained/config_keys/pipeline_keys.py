"""The keys of a model_index.json of Stable Diffusion, and the classes that its parts may have."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from diffusion_train.pretrained.config_keys.base import SAVED, Keys, group

_TOKENIZERS = ("CLIPTokenizer", "CLIPTokenizerFast")
PARTS = {
    "unet": ("UNet2DConditionModel",),
    "vae": ("AutoencoderKL",),
    "text_encoder": ("CLIPTextModel",),
    "tokenizer": _TOKENIZERS,
}
PARTS_OF_XL = {**PARTS, "text_encoder_2": ("CLIPTextModelWithProjection",), "tokenizer_2": _TOKENIZERS}
_IMAGES = "is for generated images or for image prompts, which are not used here"
_HARMLESS = {
    **SAVED,
    **group(_IMAGES, "safety_checker feature_extractor image_encoder requires_safety_checker add_watermarker"),
}
STABLE_DIFFUSION = Keys(used=frozenset({"_class_name", "scheduler", *PARTS}), harmless=_HARMLESS)
STABLE_DIFFUSION_XL = Keys(
    used=frozenset({"_class_name", "scheduler", *PARTS_OF_XL, "force_zeros_for_empty_prompt"}), harmless=_HARMLESS
)


def problems(kind: str, index: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with the index of a pipeline of the kind "sd" or "sdxl"."""
    yield from {"sd": STABLE_DIFFUSION, "sdxl": STABLE_DIFFUSION_XL}[kind].problems(index)
    for name, classes in {"sd": PARTS, "sdxl": PARTS_OF_XL}[kind].items():
        value = index.get(name, [None, classes[0]])
        if not (isinstance(value, list) and len(value) == 2 and value[1] in classes):
            yield f"{name}={value}: must be a {classes[0]}; give a model with one"
