"""Weights of Stable Diffusion by the names that its first authors gave them: the way back from diffusers' names."""

from __future__ import annotations

import re
from typing import Any

import torch

Weights = dict[str, torch.Tensor]

_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
_UNET = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
}
_VAE = {
    "mid_block.resnets.0": "mid.block_1",
    "mid_block.resnets.1": "mid.block_2",
    "mid_block.attentions.0": "mid.attn_1",
    "conv_norm_out": "norm_out",
    "conv_shortcut": "nin_shortcut",
    "downsamplers.0": "downsample",
    "upsamplers.0": "upsample",
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
}
_OPEN_CLIP = {
    "embeddings.position_embedding.weight": "positional_embedding",
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "final_layer_norm": "ln_final",
    "encoder.layers": "transformer.resblocks",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "fc1": "c_fc",
    "fc2": "c_proj",
    "self_attn": "attn",
}


def single_file(models: dict[str, Any], kind: str) -> Weights:
    """`models`: "unet", "vae", "text_encoder" and, for XL, "text_encoder_2"; `kind`: sd1, sd2 or sdxl."""
    weights = _prefixed("model.diffusion_model.", _unet(models["unet"]))
    weights |= _prefixed("first_stage_model.", _vae(models["vae"]))
    text = {name: model.state_dict() for name, model in models.items() if name.startswith("text_encoder")}
    if kind == "sd1":
        return weights | _prefixed("cond_stage_model.transformer.text_model.", _bare(text["text_encoder"]))
    if kind == "sd2":
        return weights | _prefixed("cond_stage_model.model.", _open_clip(text["text_encoder"]))
    weights |= _prefixed("conditioner.embedders.0.transformer.text_model.", _bare(text["text_encoder"]))
    return weights | _prefixed("conditioner.embedders.1.model.", _open_clip(text["text_encoder_2"]))


def _prefixed(prefix: str, weights: Weights) -> Weights:
    return {prefix + name: value for name, value in weights.items()}


def _bare(weights: Weights) -> Weights:
    return {name.removeprefix("text_model."): value for name, value in weights.items()}


def _unet(model: Any) -> Weights:
    per_block = model.config.layers_per_block + 1

    def renamed(name: str) -> str:
        name = _replaced(name, _UNET)
        if found := re.match(r"(down|up)_blocks\.(\d+)\.(\w+)\.(\d+)\.(.*)", name):
            side, block, what, number, rest = found[1], int(found[2]), found[3], int(found[4]), found[5]
            if what == "downsamplers":
                return f"input_blocks.{per_block * (block + 1)}.0.{rest.replace('conv', 'op')}"
            if what == "upsamplers":
                attends = bool(getattr(model.up_blocks[block], "attentions", None))
                return f"output_blocks.{per_block * block + per_block - 1}.{1 + attends}.{rest}"
            place = per_block * block + number + (side == "down")
            name = f"{'input' if side == 'down' else 'output'}_blocks.{place}.{int(what == 'attentions')}.{rest}"
        return _replaced(name, _RESNET) if "transformer_blocks" not in name else name

    return {renamed(name): value for name, value in model.state_dict().items()}


def _vae(model: Any) -> Weights:
    last = len(model.config.block_out_channels) - 1

    def renamed(name: str) -> str:
        name = re.sub(r"down_blocks\.(\d+)\.resnets", r"down.\1.block", name)
        name = re.sub(r"up_blocks\.(\d+)\.resnets", lambda m: f"up.{last - int(m[1])}.block", name)
        name = re.sub(r"down_blocks\.(\d+)", r"down.\1", name)
        name = re.sub(r"up_blocks\.(\d+)", lambda m: f"up.{last - int(m[1])}", name)
        return _replaced(name, _VAE)

    weights = {renamed(name): value for name, value in model.state_dict().items()}
    attention = re.compile(r"attn_1\.(q|k|v|proj_out)\.weight")
    return {name: value[:, :, None, None] if attention.search(name) else value for name, value in weights.items()}


def _open_clip(weights: Weights) -> Weights:
    weights = _bare(weights)
    made: Weights = {}
    for name, value in weights.items():
        if name == "text_projection.weight":
            made["text_projection"] = value.T
        elif found := re.match(r"(.*self_attn)\.q_proj\.(weight|bias)", name):
            parts = [weights[f"{found[1]}.{part}_proj.{found[2]}"] for part in "qkv"]
            made[f"{_replaced(found[1], _OPEN_CLIP)}.in_proj_{found[2]}"] = torch.cat(parts)
        elif not re.search(r"self_attn\.[kv]_proj", name):
            made[_replaced(name, _OPEN_CLIP)] = value
    return made


def _replaced(name: str, words: dict[str, str]) -> str:
    for old, new in words.items():
        name = re.sub(rf"(?<![\w]){re.escape(old)}(?![\w])", new, name)
    return name
