"""Where a pretrained model lies: a run folder of ours, a folder in diffusers' layout, a single file, or on the hub.

Errors are ValueError, and name the key, its value and a remedy.
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
    """Reads nothing but names and, of a file, its header."""
    path = Path(source).expanduser()
    if "://" in source:
        raise ValueError(f"pretrained={source}: addresses are not read; download the model and give its folder or file")
    if path.is_dir():
        return "folder" if (path / diffusers_folder.INDEX).is_file() or not is_run(path) else "run"
    if path.is_file():
        return _kind_of_file(path)
    if hub.is_name(source) and path.suffix not in (".safetensors", *_PICKLES) and not source.startswith((".", "~")):
        return "hub"
    raise ValueError(
        f"pretrained={source}: no such folder or file, and no model of the hub, which is written owner/name or "
        "owner/name@revision"
    )


def is_run(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("config.yaml", "weights.safetensors"))


def folder(source: str, prediction: str | None = None, tokenizer: str | None = None, weights: bool = True) -> Path:
    """A folder in diffusers' layout with all of the model; without `weights` at least what describes it, quickly had.

    A single file is converted once and kept in the cache folder; `prediction` and `tokenizer` say what it does not hold.
    """
    found, path = kind(source), Path(source).expanduser().absolute()
    if found == "hub":
        files = hub.snapshot(source, "pretrained", hub.EVERYTHING if weights else hub.DESCRIPTION)
        return diffusers_folder.checked(files, source, weights)
    if found != "file":
        return diffusers_folder.checked(path, source)
    Vocabulary.find(tokenizer, path)
    layout = single_file.layout(path, prediction)
    return converted(path, layout, tokenizer) if weights else layout


def part(source: str, key: str, *subfolders: str) -> Path:
    """The folder of a single model, or of several that stand in `subfolders`; of the hub, only those are fetched."""
    path = Path(source).expanduser()
    if path.is_dir():
        return path
    if source.startswith(("/", ".", "~")):
        raise ValueError(f"{key}={source}: there is no such folder")
    wanted = [f"{folder}/{kind}" if folder else kind for folder in subfolders for kind in hub.EVERYTHING]
    return hub.snapshot(source, key, wanted, ["*.fp16.*"] if any(subfolders) else ["*.fp16.*", "*/*"])


def _kind_of_file(path: Path) -> Kind:
    if path.suffix in _PICKLES:
        raise ValueError(
            f"pretrained={path}: a pickle, which can run code when it is read; take the model's .safetensors file, or "
            f"its tensors alone: {diffusers_folder.unpickle_command(path, path.with_suffix('.safetensors'))}"
        )
    return "run" if "diffusion_train" in single_file.read_header(path).metadata else "file"
