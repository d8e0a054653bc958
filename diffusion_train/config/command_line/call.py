"""The parsed arguments of a command: Hydra's flags, overrides, and targets to trust."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from hydra._internal.utils import get_args_parser

from diffusion_train.config.command_line import own_data
from diffusion_train.config.command_line.arguments import last_of_each_key, parse
from diffusion_train.config.folders import Loader, conf_folder, groups, own_settings, read_yaml
from diffusion_train.config.mistakes import Mistake, raise_all
from diffusion_train.config.targets import OWN


@dataclass(frozen=True)
class Call:
    """The parsed arguments of a command.

    `overrides` do not contain `allow_targets` (in `allowed`), which a config file must not be able to set. They contain
    the choices of groups that follow from other overrides; `mistakes` are those found while making these choices.
    """

    command: str
    arguments: tuple[str, ...]
    flags: argparse.Namespace
    overrides: tuple[str, ...]
    allowed: tuple[str, ...]
    folders: tuple[Path, ...]
    mistakes: tuple[Mistake, ...] = ()

    @property
    def config_name(self) -> str:
        """The config of the command: its own YAML file if it has one, else `config`, a training run."""
        if self.flags.config_name:
            return str(self.flags.config_name)
        return self.command if (self.folders[0] / f"{self.command}.yaml").is_file() else "config"

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The settings in the config's own file, without those that it includes."""
        return read_yaml(self._own_text)

    @property
    def comments(self) -> dict[str, str]:
        """Dotted key -> the comment after it in the config's own file."""
        lines = self._own_text.splitlines()
        lines_of_keys = _key_lines(yaml.compose(self._own_text, Loader))
        return {key: comment for key, line in lines_of_keys if (comment := lines[line].partition(" # ")[2])}

    @cached_property
    def _own_text(self) -> str:
        for folder in self.folders:
            file = folder / f"{self.config_name}.yaml"
            if file.is_file():
                return file.read_text("utf-8")
        raise ValueError(f"there is no {self.config_name}.yaml in {' or '.join(map(str, self.folders))}")

    @property
    def groups(self) -> dict[str, list[str]]:
        """Group -> options, without the groups that only other commands have."""
        own = _chosen(self.settings if "defaults" in self.settings else own_settings("config"))
        commands = [own_settings(file.stem) for file in self.folders[0].glob("*.yaml")]
        others = set[str]().union(*map(_chosen, commands)) - own
        return {group: options for group, options in groups(self.folders).items() if group.split("/")[0] not in others}

    @property
    def is_of_training(self) -> bool:
        """Whether the config has the group `experiment`."""
        return "experiment" in _chosen(self.settings)

    @property
    def flag_arguments(self) -> list[str]:
        overrides = {*self.flags.overrides}
        return [argument for argument in self.arguments if argument not in overrides]

    @property
    def shows_only(self) -> bool:
        return bool(self.flags.cfg or self.flags.info or self.flags.hydra_help or self.flags.shell_completion)


def read_call(command: str, arguments: Sequence[str]) -> Call:
    """Parse the arguments of a command.

    Raises ConfigError for Hydra's flags that replace the config folder or load a pickle.
    """
    flags = get_args_parser().parse_intermixed_args(list(arguments))
    mistakes = []
    if flags.experimental_rerun is not None:
        mistakes.append(
            Mistake("--experimental-rerun", "is not allowed, because it loads a pickle, which can run code")
        )
    if flags.config_path is not None:
        mistakes.append(
            Mistake("--config-path", "is not allowed, because it would hide the package's groups", "use --config-dir")
        )
    user = [Path(flags.config_dir).expanduser().resolve()] if flags.config_dir else []
    if user and not user[0].is_dir():
        mistakes.append(Mistake(f"--config-dir {flags.config_dir}", "no such folder"))
    trusting = [argument for argument in flags.overrides if argument.startswith("allow_targets=")]
    overrides = last_of_each_key([argument for argument in flags.overrides if argument not in trusting])
    allowed, wrong = _entries(trusting)
    raise_all([*mistakes, *wrong])
    call = Call(command, tuple(arguments), flags, overrides, allowed, (conf_folder(), *user))
    if not flags.config_name and call.is_of_training:
        overrides, found = own_data.choose(overrides, call.folders)
        call = replace(call, overrides=overrides, mistakes=found)
    return call


def _chosen(settings: dict[str, Any]) -> set[str]:
    """Return the groups in a config's defaults list, and in those of the configs that it includes."""
    chosen: set[str] = set()
    for entry in settings.get("defaults", []):
        if isinstance(entry, dict):
            chosen |= {str(key).rpartition(" ")[2] for key in entry}
        elif isinstance(entry, str) and entry != "_self_":
            chosen |= _chosen(own_settings(entry))
    return chosen


def _key_lines(node: yaml.Node | None, path: str = "") -> Iterator[tuple[str, int]]:
    for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
        yield f"{path}{key.value}", key.start_mark.line
        yield from _key_lines(value, f"{path}{key.value}.")


def _entries(trusting: Sequence[str]) -> tuple[tuple[str, ...], list[Mistake]]:
    overrides, mistakes = parse(trusting)
    entries: list[str] = []
    for override in overrides:
        value = override.value()
        if not isinstance(value, list) or not all(isinstance(entry, str) and entry for entry in value):
            mistakes.append(Mistake(str(override.input_line), "must be a list", "write allow_targets=[my_package.]"))
            continue
        for entry in value:
            if entry.partition(".")[0] == OWN:
                problem = f"targets of {OWN} cannot be added here; those that the files in conf use are already allowed"
                mistakes.append(Mistake(f"allow_targets=[{entry}]", problem, "leave it out"))
        entries += value
    return tuple(entries), mistakes
