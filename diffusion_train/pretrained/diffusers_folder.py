"""Folders in diffusers' layout: checks that they are complete and finds their weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from diffusion_train.pretrained import weight_files as part_files
from diffusion_train.pretrained.config_keys.base import NOT_ORDINARY
from diffusion_train.utils.text import argument

INDEX = "model_index.json"
# The kind of model of each pipeline, and for each kind the subfolders with weights.
KINDS = {"StableDiffusionPipeline": "sd", "StableDiffusionXLPipeline": "sdxl"}
WEIGHTS = {"sd": ("unet", "vae", "text_encoder"), "sdxl": ("unet", "vae", "text_encoder", "text_encoder_2")}
_LIBRARIES = (None, "diffusers", "transformers", "stable_diffusion")
DISTILLED = ("LatentConsistencyModelPipeline", "LatentConsistencyModelImg2ImgPipeline")
TOKENIZERS = {"sd": ("tokenizer",), "sdxl": ("tokenizer", "tokenizer_2")}


def kind(folder: Path, source: str) -> str:
    """Return the kind of model, "sd" or "sdxl". Raises ValueError for another pipeline."""
    name = read_json(folder / INDEX, source).get("_class_name")
    if name in DISTILLED:
        raise ValueError(f"pretrained={source}: {INDEX}: {name}: the model is distilled for few steps; {NOT_ORDINARY}")
    if name not in KINDS:
        raise ValueError(f"pretrained={source}: {name} is not supported yet; give one of {', '.join(KINDS)}")
    return KINDS[name]


def checked(folder: Path, source: str, weights: bool = True) -> Path:
    """Return `folder` if it is complete. Raises ValueError, which names pretrained=`source`, otherwise."""
    if not (folder / INDEX).is_file():
        raise ValueError(f"pretrained={source}: holds no {INDEX}; {_remedy(folder)}")
    model = kind(folder, source)
    required = [f"{name}/config.json" for name in WEIGHTS[model]] + ["scheduler/scheduler_config.json"]
    missing = [name for name in required if not (folder / name).is_file()]
    missing += [f"{name}/" for name in TOKENIZERS[model] if weights and not (folder / name).is_dir()]
    if missing:
        raise ValueError(f"pretrained={source}: {', '.join(missing)} is missing; copy or download the folder again")
    for name in WEIGHTS[model] if weights else ():
        if not _weights(folder / name, source):
            raise ValueError(f"pretrained={source}: {_without_weights(folder / name)}")
    return folder


def check_contents(folder: Path, source: str) -> None:
    """Raises ValueError, which names `source`, if the folder cannot be copied or loaded whole without harm.

    Its links may lead only inside the folder or, in the hub's cache, to the files of the same model, so that a copy
    holds no other files. Its index may name parts in the folder, of the libraries of Stable Diffusion, so that no other
    module is imported.
    """
    home = folder.resolve()
    homes = [home, home.parents[1] / "blobs"] if home.parent.name == "snapshots" else [home]
    for file in sorted(home.rglob("*")):
        found = file.resolve()
        if not any(found.is_relative_to(parent) for parent in homes):
            raise ValueError(f"{source}: {file} is a link out of the folder, to {found}; put a copy of the file there")
        if not (found.is_file() or (found.is_dir() and not file.is_symlink())):
            raise ValueError(f"{source}: {file} must be a file, a link to a file or a folder; remove it")
    for name, value in read_json(home / INDEX, source).items():
        if isinstance(value, list) and not (name.isidentifier() and len(value) == 2 and value[0] in _LIBRARIES):
            raise ValueError(
                f"{source}: {INDEX} names {name}: {value}, which is no part of Stable Diffusion; remove it"
            )


def weight_files(folder: Path, source: str) -> dict[str, Path]:
    """Return the files with the weights of all parts that are used, by their path in the folder."""
    return {
        file.relative_to(folder).as_posix(): file
        for name in WEIGHTS[kind(folder, source)]
        for file in _weights(folder / name, source)
    }


def unpickle_command(path: Path, out: Path) -> str:
    """Return the command line that writes the tensors of a pickle to `out`."""
    return f"diffusion-train unpickle {argument('path', path)} {argument('out', out)}"


def read_json(file: Path, source: str) -> dict[str, Any]:
    """Return a mapping from a JSON file. Raises ValueError, which names pretrained=`source`, if there is none."""
    return read_mapping(file, f"pretrained={source}")


def read_mapping(file: Path, where: str) -> dict[str, Any]:
    """Return a mapping from a JSON file. Raises ValueError, which names `where`, if there is none."""
    try:
        found = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{where}: {file.name} cannot be read ({error}); download it again") from error
    if not isinstance(found, dict):
        raise ValueError(f"{where}: {file.name} is not a mapping; download it again")  # noqa: TRY004
    return found


def _weights(folder: Path, source: str) -> list[Path]:
    try:
        return part_files.find(folder).files
    except ValueError as error:
        raise ValueError(f"pretrained={source}: {error}") from error


def _without_weights(folder: Path) -> str:
    if variants := sorted(folder.glob("*.safetensors")):
        plain = variants[0].name.split(".")[0] + ".safetensors"
        return f"{folder.name}/ holds only the variant {variants[0].name}; rename that file to {plain}"
    if pickles := sorted([*folder.glob("*.bin"), *folder.glob("*.ckpt"), *folder.glob("*.pt")]):
        # transformers calls the same model pytorch_model.bin and model.safetensors
        out = folder / f"{pickles[0].stem.removeprefix('pytorch_')}.safetensors"
        return (
            f"{folder.name}/ holds weights only as a pickle ({pickles[0].name}), which can run code when it is read; "
            f"get the model's .safetensors files, or extract the tensors: {unpickle_command(pickles[0], out)}"
        )
    return (
        f"{folder.name}/ holds no .safetensors file; copy or download the folder again. If the model has only pickles, "
        "download those: `diffusion-train unpickle` extracts their tensors"
    )


def _remedy(folder: Path) -> str:
    if inside := sorted(folder.glob(f"*/{INDEX}")) or sorted(folder.glob(f"snapshots/*/{INDEX}")):
        return f"did you mean {inside[0].parent}?"
    if files := sorted(folder.glob("*.safetensors")):
        return f"give a file in it: pretrained={files[0]}"
    return "give a folder in diffusers' layout, a run folder, or a single .safetensors file"
