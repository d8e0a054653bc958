"""Finds the weight files of one part of a model: in one file or in shards, in full precision or as a variant."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from safetensors import SafetensorError, safe_open

VARIANTS = ("", "fp16", "bf16")  # the first one that a folder has is read: full precision if it is there
_SHARD = re.compile(r"-\d{5}-of-\d{5}$")


class Weights(NamedTuple):
    """The weight files of a part, none if it has no such files, and the variant in their names, "" without one."""

    files: list[Path]
    variant: str

    @property
    def arguments(self) -> dict[str, str]:
        """The arguments with which diffusers and transformers load these files."""
        return {"variant": self.variant} if self.variant else {}


def find(folder: Path) -> Weights:
    """Return the weight files of a part. Raises ValueError, which names the file, if a shard or an index is missing."""
    for variant in VARIANTS:
        if files := _of_variant(folder, f".{variant}" if variant else ""):
            return Weights(files, variant)
    return Weights([], "")


def find_whole(folder: Path, where: str) -> Weights:
    """Return the weight files of a part. Raises ValueError, which names `where`, unless all are there and whole."""
    try:
        weights = find(folder)
        for file in weights.files:
            with safe_open(file, "numpy"):
                pass
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{where}: {file} is not a whole safetensors file ({error}); download it again") from error
    if not weights.files:
        raise ValueError(f"{where}: {folder} holds no .safetensors file; weights in other formats are not loaded")
    return weights


def check_complete(missing: Iterable[str], where: str) -> None:
    """Raises ValueError if weights are `missing`, which the libraries fill with random numbers."""
    if names := sorted(missing):
        raise ValueError(f"{where}: {len(names)} weights are missing (first: {names[0]}); download the model again")


def _of_variant(folder: Path, suffix: str) -> list[Path]:
    indices = sorted(folder.glob(f"*.safetensors.index{suffix}.json"))
    if indices:
        return _shards(indices[0])
    files = [file for file in sorted(folder.glob("*.safetensors")) if _suffix(file) == suffix]
    if shards := [file for file in files if _SHARD.search(file.stem)]:
        index = f"{_SHARD.sub('', shards[0].stem).removesuffix(suffix)}.safetensors.index{suffix}.json"
        raise ValueError(f"{folder.name}/{index} is missing, which lists the shards; download it again")
    return files


def _shards(index: Path) -> list[Path]:
    folder = index.parent
    try:
        names = sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
        is_plain = all(Path(name).name == name for name in names)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{folder.name}/{index.name} is not an index of shards; download it again") from error
    if not (names and is_plain):
        raise ValueError(f"{folder.name}/{index.name} must name files in {folder.name}/; download it again")
    if missing := [name for name in names if not (folder / name).is_file()]:
        files = ", ".join(f"{folder.name}/{name}" for name in missing)
        raise ValueError(f"{files} is missing, which {index.name} names; copy or download it again")
    return [folder / name for name in names]


def _suffix(file: Path) -> str:
    """Return ".fp16" for x.fp16.safetensors and x.fp16-00001-of-00002.safetensors, "" for plain names."""
    _, dot, variant = _SHARD.sub("", file.stem).partition(".")
    return dot + variant
