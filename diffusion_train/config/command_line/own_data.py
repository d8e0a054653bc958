"""Choose the option of `data` for data named on the command line, and the recipe if no experiment is named."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from diffusion_train.config.command_line.arguments import parse
from diffusion_train.config.folders import read_yaml
from diffusion_train.config.mistakes import Mistake

_OPTIONS = {"data.shards": "shards", "data.folder": "folder"}
_RECIPE = "own_images"


def choose(overrides: Sequence[str], folders: Sequence[Path]) -> tuple[tuple[str, ...], tuple[Mistake, ...]]:
    """Return the overrides with the choices that follow from them, as if they had been typed, and the mistakes in them.

    `data.folder=x` alone becomes `experiment=own_images data=folder data.folder=x`. A named experiment stays, and its
    option of `data` is replaced if it reads shards that the user cannot set. `folders` contain the options of
    `experiment` and `data` as YAML files.
    """
    by_key = {argument.lstrip("+").partition("=")[0]: argument for argument in overrides}
    given = [key for key in _OPTIONS if key in by_key]
    if len(given) > 1:
        named = " ".join(by_key[key] for key in given)
        rest = tuple(argument for argument in overrides if argument not in map(by_key.get, given))
        return rest, (Mistake(named, "two data sets are given", "give one of them"),)
    mistakes = tuple(_absent(by_key["data.folder"])) if "data.folder" in by_key else ()
    return (*(_choices(by_key, _OPTIONS[given[0]], folders) if given else ()), *overrides), mistakes


def _choices(by_key: Mapping[str, str], option: str, folders: Sequence[Path]) -> Iterator[str]:
    """Yield the overrides that must come before data of this option of `data`."""
    if "experiment" not in by_key:
        yield f"experiment={_RECIPE}"
    if "data" in by_key:
        return
    recipes = by_key["experiment"].partition("=")[2].split(",") if "experiment" in by_key else [_RECIPE]
    if any(_makes_room(_data_of(name.strip(), folders), option, folders) for name in recipes):
        yield f"data={option}"


def _absent(argument: str) -> Iterator[Mistake]:
    for override in parse([argument])[0]:
        value = None if override.is_sweep_override() else override.value()
        if isinstance(value, str) and not Path(value).expanduser().is_dir():
            yield Mistake(argument, "no such folder", "give a folder of images; for tars use data.shards")


def _data_of(experiment: str, folders: Sequence[Path]) -> str:
    """Return the option of `data` that a recipe chooses, itself or through the recipes that it includes."""
    for entry in reversed(_defaults("experiment", experiment, folders)):
        if isinstance(entry, str) and entry != "_self_":
            return _data_of(entry, folders)
        if isinstance(entry, dict) and (chosen := entry.get("override /data")):
            return str(chosen)
    return "shards"


def _makes_room(data: str, option: str, folders: Sequence[Path]) -> bool:
    """Whether an option of `data` reads shards, but not shards that the user can set for `option`."""
    sources = list(_shards_of(data, folders))
    return bool(sources) and (option == "folder" or isinstance(sources[0], dict))


def _shards_of(data: str, folders: Sequence[Path]) -> Iterator[object]:
    """Yield the setting `shards` of an option of `data`, then of the options that it includes."""
    settings = _read("data", data, folders)
    if "shards" in settings:
        yield settings["shards"]
    for entry in reversed(_defaults("data", data, folders)):
        if isinstance(entry, str) and entry != "_self_":
            yield from _shards_of(entry, folders)


def _defaults(group: str, option: str, folders: Sequence[Path]) -> list[object]:
    found = _read(group, option, folders).get("defaults")
    return found if isinstance(found, list) else []


def _read(group: str, option: str, folders: Sequence[Path]) -> dict[str, Any]:
    files = (folder / group / f"{option}.yaml" for folder in folders)
    return next((read_yaml(file.read_text("utf-8")) for file in files if file.is_file()), {})
