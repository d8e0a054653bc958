"""The folders of YAML files, and the groups and options in them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the loader in C takes a tenth of the time


def conf_folder() -> Path:
    """Return the folder conf/: inside the package if that is installed, beside it in a repository."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "conf", package.parent / "conf"):
        if folder.is_dir():
            return folder
    raise FileNotFoundError(f"no folder 'conf' in {package} or {package.parent}; install diffusion_train again")


def read_yaml(text: str) -> dict[str, Any]:
    """Return the mapping in a config file; empty if it has none or is not valid YAML, which Hydra reports."""
    try:
        found = yaml.load(text, Loader=Loader)
    except yaml.YAMLError:
        return {}
    return found if isinstance(found, dict) else {}


def own_settings(command: str) -> dict[str, Any]:
    """Return the settings in a command's own YAML file, without those that it includes."""
    return read_yaml((conf_folder() / f"{command}.yaml").read_text("utf-8"))


def walk(node: object, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted key, value) of every entry of nested dictionaries, containers included."""
    for key, value in node.items() if isinstance(node, dict) else ():
        child = f"{path}.{key}" if path else str(key)
        yield child, value
        yield from walk(value, child)


def groups(folders: Sequence[Path]) -> dict[str, list[str]]:
    """Return group (such as `diffusion/schedule`) -> options, of all folders together."""
    found: dict[str, set[str]] = {}
    for folder in folders:
        for file in folder.rglob("*.yaml"):
            group = file.parent.relative_to(folder).as_posix()
            if group != ".":
                found.setdefault(group, set()).add(file.stem)
    return {group: sorted(found[group]) for group in sorted(found)}


def options_with(key: str, folders: Sequence[Path]) -> list[str]:
    """Return the options whose own file sets `key`: `guidance=classifier_free` for `guidance.scale`."""
    path = key.split(".")
    for length in range(len(path) - 1, 0, -1):
        group = "/".join(path[:length])
        files = sorted(file for folder in folders for file in (folder / group).glob("*.yaml"))
        own = ".".join(path[length:])
        if found := [f"{group}={file.stem}" for file in files if own in dict(walk(read_yaml(file.read_text("utf-8"))))]:
            return list(dict.fromkeys(found))
    return []
