"""Settings that make another model of the same weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from diffusion_train.config.folders import walk
from diffusion_train.config.run import load_run_config

_MODEL = ("network", "conditioner", "autoencoder", "adapter", "diffusion", "data.captions.trigger")
_STRENGTH = "adapter.scale"


def model_changes(run: Path, cfg: DictConfig) -> list[str]:
    """Return the settings of the model in which `cfg` differs from the config that the run saved.

    The adapter's scale is left out, because approvals name it, and `pretrained`, because the run knows the SHA-256 of
    that model.
    """
    own, now = _model(load_run_config(run)), _model(cfg)
    return sorted(key for key in own.keys() | now.keys() if own.get(key) != now.get(key))


def _model(cfg: DictConfig) -> dict[str, Any]:
    """Return the model's settings by their dotted keys."""
    plain: Any = OmegaConf.to_container(cfg, resolve=False)
    return {
        key: value
        for key, value in walk(plain)
        if f"{key}.".startswith(tuple(f"{part}." for part in _MODEL))
        and key != _STRENGTH
        and not isinstance(value, dict)
    }
