"""Models of diffusers from a folder: safetensors alone, and no code of the folder's."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch


def load_model(
    source: str | Path, subfolder: str, names: Sequence[str], key: str, dtype: torch.dtype = torch.float32
) -> Any:
    """The model in `source`, or in its `subfolder` where that is a pipeline's folder; one of the classes `names`.

    Whatever precision the file has, the weights have `dtype`; on the meta device none are read. ValueError, which names the setting `key`, for anything else.
    """
    folder = model_folder(source, subfolder)
    if not (folder / "config.json").is_file():
        raise ValueError(f"{key}={source}: neither this folder nor its {subfolder}/ holds a config.json")
    described = json.loads((folder / "config.json").read_text("utf-8"))
    found = model_class(described, names, str(folder))
    if not list(folder.glob("*.safetensors")):
        raise ValueError(
            f"{key}={source}: {folder} holds no .safetensors file; weights in other formats are not loaded"
        )
    if torch.get_default_device().type == "meta":
        return found.from_config(described)
    with torch.random.fork_rng(devices=[]):  # without accelerate, weights are drawn before they are read
        return found.from_pretrained(folder, use_safetensors=True, local_files_only=True, torch_dtype=dtype)


def model_folder(source: str | Path, subfolder: str) -> Path:
    """`source` itself, or its `subfolder` where that is there."""
    path = Path(source).expanduser()
    return path / subfolder if (path / subfolder).is_dir() else path


def model_class(config: Mapping[str, Any], names: Sequence[str], where: str) -> Any:
    name = str(config.get("_class_name"))
    if name not in names:
        raise ValueError(f"{where}: _class_name must be one of {', '.join(names)}, but is {name}")
    import diffusers

    return getattr(diffusers, name)
