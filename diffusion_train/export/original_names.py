"""Converts names and shapes of weights from diffusers to the layout of Stable Diffusion's first authors.

Rombach et al. 2022 released `model.diffusion_model`, `first_stage_model` and `cond_stage_model` in one file; Podell et
al. 2023 (XL) replaced the last one by `conditioner.embedders`. Text encoders of OpenCLIP keep its names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

Weights = dict[str, Tensor]
_WRAPPER = "text_model."  # prefix of all but the projection in some versions of transformers

_UNET = {
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}
_UNET_BLOCK = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_VAE_ATTENTION = {
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
    "query": "q",
    "key": "k",
    "value": "v",
    "proj_attn": "proj_out",
}
_OPEN_CLIP = {
    "embeddings.position_embedding.weight": "positional_embedding",
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "final_layer_norm.": "ln_final.",
    "encoder.layers.": "transformer.resblocks.",
    "self_attn.out_proj.": "attn.out_proj.",
    "layer_norm1.": "ln_1.",
    "layer_norm2.": "ln_2.",
    "mlp.fc1.": "mlp.c_fc.",
    "mlp.fc2.": "mlp.c_proj.",
}


def unet_names(names: Iterable[str], num_layers: int) -> dict[str, str]:
    """Return the original name for each name of a weight or layer in a UNet2DConditionModel.

    `names` must be those of the whole network, because upsamplers are named by whether their block has attention.
    `num_layers` is the number of residual blocks per level.
    """
    names = list(names)
    attending = {match[1] for name in names if (match := re.match(r"up_blocks\.(\d+)\.attentions\.", name))}
    return {name: _unet_name(name, num_layers, attending) for name in names}


def unet(weights: Mapping[str, Tensor], num_layers: int) -> Weights:
    """Convert the U-Net, with `num_layers` residual blocks per level."""
    names = unet_names(weights, num_layers)
    return {f"model.diffusion_model.{names[name]}": value for name, value in weights.items()}


def vae(weights: Mapping[str, Tensor]) -> Weights:
    """Convert the autoencoder; its attention's linear layers become 1x1 convolutions."""
    num_levels = 1 + max(int(match[1]) for name in weights if (match := re.search(r"_blocks\.(\d+)\.", name)))
    found = {}
    for name, value in weights.items():
        new = _vae_name(name, num_levels)
        is_product = ".attn_1." in new and value.ndim == 2  # a 1x1 convolution in the original layout
        found[f"first_stage_model.{new}"] = value[:, :, None, None] if is_product else value
    return found


def clip(weights: Mapping[str, Tensor], prefix: str) -> Weights:
    """Convert the text encoder of OpenAI's CLIP, which keeps the names of transformers."""
    return {f"{prefix}transformer.text_model.{name.removeprefix(_WRAPPER)}": value for name, value in weights.items()}


def open_clip(weights: Mapping[str, Tensor], prefix: str) -> Weights:
    """Convert the text encoder of OpenCLIP, which has queries, keys and values of a layer in one matrix."""
    plain = {name.removeprefix(_WRAPPER): value for name, value in weights.items()}
    found = {}
    for name, value in plain.items():
        if name == "text_projection.weight":
            found[f"{prefix}model.text_projection"] = value.T.contiguous()
        elif match := re.fullmatch(r"(.*self_attn\.)q_proj\.(weight|bias)", name):
            joined = torch.cat([plain[f"{match[1]}{part}_proj.{match[2]}"] for part in "qkv"])
            found[f"{prefix}model.{_open_clip_name(match[1])}attn.in_proj_{match[2]}"] = joined
        elif not re.search(r"self_attn\.[kv]_proj\.|position_ids$", name):
            found[f"{prefix}model.{_open_clip_name(name)}"] = value
    return found


def _unet_name(name: str, num_layers: int, attending: set[str]) -> str:
    if match := re.fullmatch(r"mid_block\.(resnets|attentions)\.(\d+)\.(.*)", name):
        part, number, rest = match[1], int(match[2]), match[3]
        position = 2 * number if part == "resnets" else 2 * number + 1
        return f"middle_block.{position}.{_replaced(rest, _UNET_BLOCK) if part == 'resnets' else rest}"
    match = re.fullmatch(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.*)", name)
    if not match:
        return _replaced(name, _UNET)
    side, part, rest = match[1], match[3], match[5]
    level, number = int(match[2]) * (num_layers + 1), int(match[4])
    blocks, position = ("input_blocks", level + number + 1) if side == "down" else ("output_blocks", level + number)
    if part == "downsamplers":
        return f"{blocks}.{level + num_layers + 1}.0.{rest.replace('conv', 'op')}"
    if part == "upsamplers":
        return f"{blocks}.{level + num_layers}.{2 if match[2] in attending else 1}.{rest}"
    return (
        f"{blocks}.{position}.0.{_replaced(rest, _UNET_BLOCK)}"
        if part == "resnets"
        else f"{blocks}.{position}.1.{rest}"
    )


def _vae_name(name: str, num_levels: int) -> str:
    name = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda match: f"mid.block_{int(match[1]) + 1}", name)
    if match := re.fullmatch(r"(.*)mid_block\.attentions\.0\.(.*)", name):
        return f"{match[1]}mid.attn_1.{_replaced(match[2], _VAE_ATTENTION)}"
    name = re.sub(r"down_blocks\.(\d+)\.", r"down.\1.", name)
    name = re.sub(r"up_blocks\.(\d+)\.", lambda match: f"up.{num_levels - 1 - int(match[1])}.", name)
    return re.sub(r"(down|up)samplers\.0", r"\1sample", name.replace("resnets.", "block."))


def _open_clip_name(name: str) -> str:
    for old, new in _OPEN_CLIP.items():
        name = name.replace(old, new)
    return name.replace("self_attn.", "")


def _replaced(name: str, table: Mapping[str, str]) -> str:
    """Replace the beginning of a name by the entry of `table`, if there is one."""
    for old, new in table.items():
        if name == old or name.startswith(f"{old}."):
            return new + name[len(old) :]
    return name
