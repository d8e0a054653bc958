"""Loads models of diffusers from a folder, from safetensors files only and without running code in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from diffusion_train.pretrained.diffusers_folder import read_mapping
from diffusion_train.pretrained.foreign_keys import check_model
from diffusion_train.pretrained.weight_files import check_complete, find_whole


def load_model(
    source: str | Path, subfolder: str, names: Sequence[str], key: str, dtype: torch.dtype = torch.float32
) -> Any:
    """Load the model in `source`, or in its `subfolder` if that exists; its class must be one of `names`.

    The weights are converted to `dtype`; on the meta device they are not read. Raises ValueError, which names the
    setting `key`, if there is no such model.
    """
    folder = model_folder(source, subfolder)
    if not (folder / "config.json").is_file():
        raise ValueError(f"{key}={source}: neither this folder nor its {subfolder}/ holds a config.json")
    described = read_mapping(folder / "config.json", f"{key}={source}")
    found = model_class(described, names, str(folder))
    check_model(found.__name__, described, f"{key}={source}: config.json")
    weights = find_whole(folder, f"{key}={source}")
    if torch.get_default_device().type == "meta":
        return found.from_config(described)
    with torch.random.fork_rng(devices=[]):  # without accelerate, weights are initialized randomly before they are read
        model, loaded = found.from_pretrained(
            folder,
            use_safetensors=True,
            local_files_only=True,
            torch_dtype=dtype,
            output_loading_info=True,
            **weights.arguments,
        )
    check_complete(loaded["missing_keys"], f"{key}={source}")
    return model


def model_folder(source: str | Path, subfolder: str) -> Path:
    """Return `source`, or its `subfolder` if that exists."""
    path = Path(source).expanduser()
    return path / subfolder if (path / subfolder).is_dir() else path


def model_class(config: Mapping[str, Any], names: Sequence[str], where: str) -> Any:
    """Return the diffusers class of a config. Raises ValueError, which names `where`, unless it is in `names`."""
    name = str(config.get("_class_name"))
    if name not in names:
        raise ValueError(f"{where}: _class_name must be one of {', '.join(names)}, got {name}")
    import diffusers

    return getattr(diffusers, name)
