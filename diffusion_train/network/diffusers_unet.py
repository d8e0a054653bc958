"""A UNet2DModel or UNet2DConditionModel of diffusers as a network(x, t, **cond) that returns the shape of x."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffusion_train.network.layers import required
from diffusion_train.pretrained.diffusers_model import load_model, model_class
from diffusion_train.pretrained.foreign_keys import check_model

NAMES = ("UNet2DModel", "UNet2DConditionModel")


class DiffusersUNet(nn.Module):
    """Wraps a U-Net of diffusers.

    `model` is a diffusers model, the folder of one (or of a pipeline that has one in unet/), or a config with
    `_class_name` for a new one. `text` becomes encoder_hidden_states, `text_mask` encoder_attention_mask, `label`
    class_labels, and `concat` further input channels; `pooled` and `size` (B, 6) are text_embeds and time_ids of Stable
    Diffusion XL. Conditions that the model's config does not need are ignored.
    """

    def __init__(self, model: nn.Module | str | Path | Mapping[str, Any], gradient_checkpointing: bool = False) -> None:
        super().__init__()
        self.unet = _load(model)
        if type(self.unet).__name__ not in NAMES:
            raise ValueError(f"network.model must be one of {', '.join(NAMES)}, got {type(self.unet).__name__}")
        self.takes_text = type(self.unet).__name__ == "UNet2DConditionModel"
        # UNet2DConditionModel accepts any size: it resizes to the size of each skip on the way up
        halved = 0 if self.takes_text else sum(block.downsamplers is not None for block in self.unet.down_blocks)
        self.factor = 2**halved
        if gradient_checkpointing:
            self.unet.enable_gradient_checkpointing()

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        *,
        text: Tensor | None = None,
        text_mask: Tensor | None = None,
        pooled: Tensor | None = None,
        size: Tensor | None = None,
        label: Tensor | None = None,
        concat: Tensor | None = None,
    ) -> Tensor:
        """Return the output (B, C, H, W) for x (B, C, H, W) at t (B,).

        Raises ValueError if a condition that the model needs is missing, or `concat` has other channels than it needs.
        """
        inputs: dict[str, Any] = {}
        if self.takes_text:
            inputs["encoder_hidden_states"] = self._required("text", text, "cross_attention_dim").to(x.dtype)
            inputs["encoder_attention_mask"] = text_mask
            inputs["added_cond_kwargs"] = self._added(pooled, size)
        if self.unet.class_embedding is not None:
            inputs["class_labels"] = self._required("label", label, "num_class_embeds")
        return self.unet(self._joined(x, concat), t, **inputs).sample

    def _added(self, pooled: Tensor | None, size: Tensor | None) -> dict[str, Tensor] | None:
        if self.unet.config.addition_embed_type != "text_time":
            return None
        return {
            "text_embeds": self._required("pooled", pooled, "addition_embed_type").to(self.unet.dtype),
            "time_ids": self._required("size", size, "addition_embed_type"),
        }

    def _required(self, name: str, value: Tensor | None, key: str) -> Tensor:
        return required(name, value, f"{key}={self.unet.config[key]}")

    def _joined(self, x: Tensor, concat: Tensor | None) -> Tensor:
        in_channels = self.unet.config.in_channels
        if x.shape[1] == in_channels:
            return x
        missing = in_channels - x.shape[1]
        if concat is None or concat.shape[1] != missing:
            num_concat = 0 if concat is None else concat.shape[1]
            raise ValueError(
                f"the diffusers model takes {in_channels} channels and x has {x.shape[1]}: `concat` must have the "
                f"other {missing}, got {num_concat}"
            )
        return torch.cat([x, concat.to(x.dtype)], 1)


def _load(model: nn.Module | str | Path | Mapping[str, Any]) -> Any:
    if isinstance(model, nn.Module):
        return model
    if isinstance(model, Mapping):
        made = model_class(model, NAMES, "network.model")
        check_model(made.__name__, model, "network.model")
        return made.from_config(dict(model))
    return load_model(model, "unet", NAMES, "network.model").train()
