"""Data named on the command line choose their option of `data` and, where none is named, the recipe."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import yaml

from diffusion_train.config.mistakes import Mistake

_OPTIONS = {"data.shards": "shards", "data.folder": "folder"}
_RECIPE = "own_images"


class Chosen(NamedTuple):
    """Overrides with the choices that follow from them, as if they had been typed."""

    overrides: tuple[str, ...]
    mistakes: tuple[Mistake, ...] = ()


def choose(overrides: Sequence[str], folders: Sequence[Path]) -> Chosen:
    """For a config with the groups `experiment` and `data`, whose options are YAML files of `folders`.

    `data.shards=x` alone becomes `experiment=own_images data=shards data.shards=x`. A recipe that is named stays, and its
    data make room where they are not shards that anyone may give.
    """
    values = {key: value for key, _, value in (argument.lstrip("+").partition("=") for argument in overrides)}
    given = [key for key in _OPTIONS if key in values]
    if not given:
        return Chosen(tuple(overrides))
    if len(given) > 1:
        named = " ".join(argument for argument in overrides if argument.lstrip("+").partition("=")[0] in given)
        rest = tuple(argument for argument in overrides if argument.lstrip("+").partition("=")[0] not in given)
        return Chosen(rest, (Mistake(named, "name two data sets", "give one of them"),))
    option = _OPTIONS[given[0]]
    if "experiment" not in values:
        return Chosen((f"experiment={_RECIPE}", *([] if "data" in values else [f"data={option}"]), *overrides))
    if "data" in values:
        return Chosen(tuple(overrides))
    own = [_data_of(name.strip(), folders) for name in values["experiment"].split(",")]
    makes_room = any(_takes(name, option, folders) for name in own)
    return Chosen((f"data={option}", *overrides) if makes_room else tuple(overrides))


def _data_of(experiment: str, folders: Sequence[Path]) -> str:
    """The option of `data` that a recipe chooses, itself or by the recipes that it includes."""
    for entry in reversed(_defaults("experiment", experiment, folders)):
        if isinstance(entry, str) and entry != "_self_":
            return _data_of(entry, folders)
        if isinstance(entry, dict) and (chosen := entry.get("override /data")):
            return str(chosen)
    return "shards"


def _takes(data: str, option: str, folders: Sequence[Path]) -> bool:
    """Whether an option of `data` is of shards, but not those that `option` would be given."""
    sources = list(_shards_of(data, folders))
    return bool(sources) and (option == "folder" or isinstance(sources[0], dict))


def _shards_of(data: str, folders: Sequence[Path]) -> Iterator[object]:
    """The setting `shards` of an option of `data`, then of those that it includes."""
    settings = _read("data", data, folders)
    if "shards" in settings:
        yield settings["shards"]
    for entry in reversed(_defaults("data", data, folders)):
        if isinstance(entry, str) and entry != "_self_":
            yield from _shards_of(entry, folders)


def _defaults(group: str, option: str, folders: Sequence[Path]) -> list[object]:
    found = _read(group, option, folders).get("defaults")
    return found if isinstance(found, list) else []


def _read(group: str, option: str, folders: Sequence[Path]) -> dict[str, object]:
    """Empty where there is no such file, or none that can be read: Hydra says so."""
    for folder in folders:
        file = folder / group / f"{option}.yaml"
        if file.is_file():
            try:
                found = yaml.safe_load(file.read_text("utf-8"))
            except yaml.YAMLError:
                return {}
            return found if isinstance(found, dict) else {}
    return {}
