"""Locates a pretrained model: a run folder, a folder in diffusers' layout, a single file, or a model of the hub.

Errors are ValueError and name the key, its value and a remedy.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from diffusion_train.pretrained import diffusers_folder, hub, single_file
from diffusion_train.pretrained.conversion import converted
from diffusion_train.pretrained.vocabulary import Vocabulary

Kind = Literal["run", "folder", "file", "hub"]

_PICKLES = (".ckpt", ".pt", ".pth", ".bin", ".pkl")


def kind(source: str) -> Kind:
    """Return the kind of a source from file names and, for a single file, its header."""
    path = Path(source).expanduser()
    if "://" in source:
        raise ValueError(f"pretrained={source}: URLs are not supported; download the model and give its folder or file")
    if path.is_dir():
        return "folder" if (path / diffusers_folder.INDEX).is_file() or not is_run(path) else "run"
    if path.is_file():
        return _kind_of_file(path)
    if hub.is_name(source) and path.suffix not in (".safetensors", *_PICKLES) and not source.startswith((".", "~")):
        return "hub"
    raise ValueError(
        f"pretrained={source}: no such folder or file; for a model of the hub, give owner/name or owner/name@revision"
    )


def is_run(folder: Path) -> bool:
    """Return whether this is a run folder."""
    return any((folder / name).is_file() for name in ("config.yaml", "weights.safetensors"))


def folder(source: str, prediction: str | None = None, tokenizer: str | None = None, weights: bool = True) -> Path:
    """Return a folder in diffusers' layout with the whole model; without `weights`, at least its configs.

    A single file is converted once and stored in the cache folder; `prediction` and `tokenizer` add what it lacks.
    """
    found, path = kind(source), Path(source).expanduser().absolute()
    if found == "hub":
        files = hub.snapshot(source, "pretrained", hub.PIPELINE if weights else hub.DESCRIPTION)
        if weights:
            hub.add_variants(source, "pretrained", files, diffusers_folder.WEIGHTS["sdxl"])
        return diffusers_folder.checked(files, source, weights)
    if found != "file":
        return diffusers_folder.checked(path, source)
    Vocabulary.find(tokenizer, path)
    layout = single_file.layout(path, prediction)
    return converted(path, layout, tokenizer) if weights else layout


def part(source: str, key: str, *subfolders: str) -> Path:
    """Return the folder of a model, or of several models in `subfolders`; from the hub, only those are downloaded."""
    path = Path(source).expanduser()
    if path.is_dir():
        return path
    if source.startswith(("/", ".", "~")):
        raise ValueError(f"{key}={source}: no such folder")
    patterns = [f"{folder}/{kind}" if folder else kind for folder in subfolders for kind in hub.EVERYTHING]
    files = hub.snapshot(source, key, patterns, hub.VARIANTS if any(subfolders) else [*hub.VARIANTS, "*/*"])
    hub.add_variants(source, key, files, subfolders)
    return files


def _kind_of_file(path: Path) -> Kind:
    if path.suffix in _PICKLES:
        raise ValueError(
            f"pretrained={path}: a pickle can run code when it is read; give the model's .safetensors file, or extract "
            f"its tensors: {diffusers_folder.unpickle_command(path, path.with_suffix('.safetensors'))}"
        )
    return "run" if "diffusion_train" in single_file.read_header(path).metadata else "file"
