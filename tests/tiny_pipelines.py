"""Stable Diffusion 1.5, 2.1, 2.1 with zero terminal SNR, and XL: the real layouts and settings, tiny random weights.

Pictures are 64 x 64, latents (4, 8, 8), and every text has the 77 places of CLIP. Widths that are equal in the real
models by chance alone differ here, so that one cannot pass for the other.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save

NAMES = ("sd15", "sd2_v", "sd2_zero_snr", "sdxl")
WORDS = ["red", "apple", "flag", "photo", "of", "cat", "dog", "logo"]

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}
OLD = {
    "clip_sample": False,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
}
SCHEDULERS: dict[str, dict[str, Any]] = {
    "sd15": {"_class_name": "PNDMScheduler", "_diffusers_version": "0.6.0", **BETAS, **OLD},
    "sd2_v": {
        "_class_name": "DDIMScheduler",
        "_diffusers_version": "0.8.0",
        **BETAS,
        **OLD,
        "prediction_type": "v_prediction",
    },
    "sd2_zero_snr": {
        "_class_name": "DDIMScheduler",
        "_diffusers_version": "0.18.0",
        **BETAS,
        **OLD,
        "prediction_type": "v_prediction",
        "rescale_betas_zero_snr": True,
        "timestep_spacing": "trailing",
    },
    "sdxl": {
        "_class_name": "EulerDiscreteScheduler",
        "_diffusers_version": "0.19.0.dev0",
        **BETAS,
        **OLD,
        "interpolation_type": "linear",
        "prediction_type": "epsilon",
        "sample_max_value": 1.0,
        "timestep_spacing": "leading",
        "use_karras_sigmas": False,
    },
}

UNET = {"sample_size": 8, "layers_per_block": 2, "norm_num_groups": 8}  # fewer channels a group are nearly a sign
FOUR_BLOCKS = UNET | {
    "block_out_channels": (32, 64, 64, 64),
    "down_block_types": (*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"),
    "up_block_types": ("UpBlock2D", *["CrossAttnUpBlock2D"] * 3),
    "cross_attention_dim": 24,
}
UNETS: dict[str, dict[str, Any]] = {
    "sd15": FOUR_BLOCKS | {"attention_head_dim": 8},
    "sd2": FOUR_BLOCKS | {"attention_head_dim": (2, 4, 4, 4), "use_linear_projection": True},
    "sdxl": UNET
    | {
        "block_out_channels": (32, 64, 64),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "attention_head_dim": (2, 4, 4),
        "use_linear_projection": True,
        "transformer_layers_per_block": (1, 2, 2),
        "cross_attention_dim": 24 + 40,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 48 + 6 * 8,
    },
}
CLIP_L = {"hidden_size": 24, "intermediate_size": 48, "num_attention_heads": 3, "projection_dim": 24}
OPEN_CLIP = {"hidden_size": 24, "intermediate_size": 48, "num_attention_heads": 4, "projection_dim": 16}
BIG_G = {"hidden_size": 40, "intermediate_size": 80, "num_attention_heads": 5, "projection_dim": 48}


def sd15(folder: Path) -> Path:
    """Epsilon; PNDM, which says nothing of its spacing: leading."""
    return _stable_diffusion(folder, "sd15", UNETS["sd15"], CLIP_L | {"hidden_act": "quick_gelu"}, "<|endoftext|>")


def sd2_v(folder: Path) -> Path:
    """v-prediction."""
    return _stable_diffusion(folder, "sd2_v", UNETS["sd2"], OPEN_CLIP | {"hidden_act": "gelu"}, "!")


def sd2_zero_snr(folder: Path) -> Path:
    """v-prediction with betas rescaled to zero terminal SNR, sampled with trailing steps."""
    return _stable_diffusion(folder, "sd2_zero_snr", UNETS["sd2"], OPEN_CLIP | {"hidden_act": "gelu"}, "!")


def sdxl(folder: Path) -> Path:
    """Epsilon, two text encoders, sizes; no prompt is zeros."""
    import diffusers
    import transformers

    first, second = CLIP_L | {"hidden_act": "quick_gelu"}, BIG_G | {"hidden_act": "gelu"}
    pipeline = diffusers.StableDiffusionXLPipeline(
        vae=_vae(0.13025, force_upcast=True),
        text_encoder=_seeded(1, transformers.CLIPTextModel, _clip(**first)),
        text_encoder_2=_seeded(2, transformers.CLIPTextModelWithProjection, _clip(**second)),
        tokenizer=_tokenizer(folder / "tokenizer", "<|endoftext|>"),
        tokenizer_2=_tokenizer(folder / "tokenizer_2", "!"),
        unet=_unet(UNETS["sdxl"]),
        scheduler=_scheduler("sdxl"),
        force_zeros_for_empty_prompt=True,
        add_watermarker=False,
    )
    return _saved(pipeline, folder, "sdxl", {"tokenizer": "<|endoftext|>", "tokenizer_2": "!"})


def make(name: str, folder: Path) -> Path:
    """One of NAMES."""
    return {"sd15": sd15, "sd2_v": sd2_v, "sd2_zero_snr": sd2_zero_snr, "sdxl": sdxl}[name](folder)


def _stable_diffusion(folder: Path, name: str, unet: dict[str, Any], text: dict[str, Any], pad: str) -> Path:
    import diffusers
    import transformers

    pipeline = diffusers.StableDiffusionPipeline(
        vae=_vae(0.18215),
        text_encoder=_seeded(1, transformers.CLIPTextModel, _clip(**text)),
        tokenizer=_tokenizer(folder / "tokenizer", pad),
        unet=_unet(unet),
        scheduler=_scheduler(name),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    return _saved(pipeline, folder, name, {"tokenizer": pad})


def _saved(pipeline: Any, folder: Path, name: str, tokenizers: dict[str, str]) -> Path:
    """The files as the published models have them, where today's libraries would write others."""
    pipeline.save_pretrained(folder, safe_serialization=True)
    _name_as_published(folder / "text_encoder" / "model.safetensors")
    for tokenizer, pad in tokenizers.items():
        _write_tokenizer(folder / tokenizer, pad)
        (folder / tokenizer / "tokenizer.json").unlink(missing_ok=True)
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(SCHEDULERS[name], indent=2))
    return folder


def _name_as_published(file: Path) -> None:
    """Every tensor of a text encoder stands under text_model; transformers 5 leaves that out."""
    weights = {f"text_model.{name.removeprefix('text_model.')}": value for name, value in load_file(file).items()}
    file.write_bytes(save(weights, {"format": "pt"}))


def _seeded(seed: int, make: Any, *args: Any, **settings: Any) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make(*args, **settings).eval()


def _scheduler(name: str) -> Any:
    import diffusers

    settings = SCHEDULERS[name]
    return getattr(diffusers, settings["_class_name"]).from_config(settings)


def _unet(settings: dict[str, Any]) -> Any:
    import diffusers

    return _seeded(3, diffusers.UNet2DConditionModel, in_channels=4, out_channels=4, **settings)


def _vae(scaling_factor: float, **settings: Any) -> Any:
    import diffusers

    return _seeded(
        4,
        diffusers.AutoencoderKL,
        block_out_channels=(32, 32, 32, 32),
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
        layers_per_block=2,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=64,
        scaling_factor=scaling_factor,
        **settings,
    )


def _clip(**settings: Any) -> Any:
    """eos_token_id is 2 in the published models, whatever the tokenizer says; it means: the greatest id of a text."""
    import transformers

    special = {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}
    places = {"vocab_size": len(_vocabulary()), "max_position_embeddings": 77}
    return transformers.CLIPTextConfig(num_hidden_layers=3, **places, **special, **settings)


def _tokenizer(folder: Path, pad: str) -> Any:
    import transformers

    _write_tokenizer(folder, pad)
    return transformers.CLIPTokenizer.from_pretrained(folder)


def _write_tokenizer(folder: Path, pad: str) -> None:
    """CLIP's vocabulary with the merges of WORDS alone: "!" is token 0, the special tokens are the last two."""
    special = {
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
        "pad_token": pad,
    }
    settings = special | {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": 77,
        "do_lower_case": True,
        "add_prefix_space": False,
        "errors": "replace",
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(_vocabulary(), ensure_ascii=False), "utf-8")
    (folder / "merges.txt").write_text(
        "\n".join(["#version: 0.2", *(" ".join(pair) for pair in _merges()), ""]), "utf-8"
    )
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "special_tokens_map.json").write_text(json.dumps(special))


def _vocabulary() -> dict[str, int]:
    symbols = _byte_symbols()
    tokens = [*symbols, *(f"{symbol}</w>" for symbol in symbols), *("".join(pair) for pair in _merges())]
    return {token: number for number, token in enumerate([*tokens, "<|startoftext|>", "<|endoftext|>"])}


def _byte_symbols() -> list[str]:
    """A visible character for each byte, printable ones first, as GPT-2's byte-level BPE has them."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + number) for number in range(len(others))]


def _merges() -> list[tuple[str, str]]:
    """What joins the letters of each of WORDS, from the left."""
    pairs: dict[tuple[str, str], None] = {}
    for word in WORDS:
        letters = [*word[:-1], f"{word[-1]}</w>"]
        while len(letters) > 1:
            pairs[letters[0], letters[1]] = None
            letters[:2] = [letters[0] + letters[1]]
    return list(pairs)
