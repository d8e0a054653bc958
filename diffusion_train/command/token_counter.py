"""Counting the tokens of captions with the text encoder of a `conditioner`."""

from __future__ import annotations

from typing import Any


def token_counter(cfg: Any) -> Any:
    """Of the conditioner's text encoder, or None where there is no conditioner."""
    if cfg.conditioner["_target_"].endswith(".NoCondition"):
        return None
    from diffusion_train import config
    from diffusion_train.data.caption.tokens import Tokens

    encoder: Any = getattr(config.build(cfg.conditioner), "encoder", None)
    if not hasattr(encoder, "num_tokens"):
        raise ValueError(
            "conditioner: this one has no text encoder that counts tokens; give packaged_text, clip_text or t5"
        )
    return Tokens(type(encoder).__name__, encoder.max_length, encoder.num_tokens)
