"""Compose a config from the command line. Hydra stops at its first error; this module collects all of them."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import Override, OverrideType
from omegaconf import DictConfig, OmegaConf, read_write

from diffusion_train.config import resolvers
from diffusion_train.config.base_model import named, overlay, sets_part
from diffusion_train.config.checks.values import hydra_mistakes, is_addable, is_unknown, keys, set_value, unusable
from diffusion_train.config.command_line.arguments import parse
from diffusion_train.config.folders import groups, options_with, read_yaml
from diffusion_train.config.mistakes import ERRORS, ConfigError, Mistake, first_lines, no_option, unknown_key

_TEXTS = ("prompts", "negative_prompt", "templates", "trigger", "hydra")
Refusal = tuple[Override, Exception]


class Composer:
    """Composes configs.

    `folders` are the package's conf folder and then the user's; `settings` are further overrides.
    """

    def __init__(self, config_name: str, folders: Sequence[Path], settings: Sequence[str] = ()) -> None:
        self.config_name, self.settings = config_name, list(settings)
        self.folders = [Path(folder).resolve() for folder in folders]
        self.groups = groups(self.folders)
        resolvers.install()

    def config(self, arguments: Sequence[str]) -> tuple[DictConfig, list[Mistake]]:
        """Return the config of all correct arguments, with its `hydra` node, and the mistakes in the others.

        Raises ConfigError if the YAML files themselves cannot be composed.
        """
        self._refuse_hydra()
        overrides, mistakes = parse(arguments)
        values = [o for o in overrides if self._sets_value(o)]
        choices, cfg, refused = self._without_refused([o for o in overrides if o not in values])
        lost = tuple(o.key_or_group.replace("/", ".") + "." for o, _ in refused if self._is_choice(o))
        mistakes += [self._explain(o, error, cfg) for o, error in refused if not o.key_or_group.startswith(lost)]
        # Values inside parts of a pretrained model are checked against its parts, not against the YAML files.
        brought = [o for o in values if sets_part(o)] if named(cfg, overrides) else []
        values = [o for o in values if o not in brought]
        unknown = [o for o in values if is_unknown(o.key_or_group, cfg)]
        mistakes += [self._no_such_key(o, cfg) for o in unknown if not o.key_or_group.startswith(lost)]
        known = [o for o in values if o not in unknown]
        mistakes += [m for o in known for m in set_value(cfg, o, self.groups)]
        mistakes += overlay(cfg, [*choices, *known, *brought])
        _expand_home(cfg)
        if not (refused or unknown):
            mistakes += unusable(cfg)
        return cfg, mistakes + self._hydra_mistakes(cfg, overrides)

    def _refuse_hydra(self) -> None:
        """Raises ConfigError if the main config file has a `hydra` node: Hydra imports modules of its search path."""
        files = [folder / f"{self.config_name.removesuffix('.yaml')}.yaml" for folder in self.folders]
        file = next(filter(Path.is_file, files), None)
        if file and "hydra" in read_yaml(file.read_text("utf-8")):
            raise ConfigError([Mistake("hydra", f"cannot be set in {file}", "give its settings on the command line")])

    def _hydra_mistakes(self, cfg: DictConfig, overrides: Sequence[Override]) -> list[Mistake]:
        lines = [str(o.input_line) for o in overrides]
        own = [line for line in lines if line.lstrip("+~").startswith(("hydra.", "hydra/"))]
        try:
            expected = self._hydra_of((*self.settings, *own))
        except ERRORS as error:
            return [Mistake(" ".join(own), first_lines(error))]
        return hydra_mistakes(cfg.hydra, expected, [*self.settings, self._search, *lines])

    @cache  # noqa: B019
    def _hydra_of(self, lines: tuple[str, ...]) -> DictConfig:
        """Return the `hydra` node of the command line, without any config file of ours or of the user."""
        node: DictConfig = self._with_hydra(None, lines).hydra
        return node

    @property
    def _search(self) -> str:
        return f"hydra.searchpath={[f'file://{folder}' for folder in self.folders[1:]]}"

    def _compose(self, overrides: Sequence[Override]) -> DictConfig:
        search = [self._search] if self.folders[1:] else []
        return self._with_hydra(self.config_name, [*self.settings, *search, *(str(o.input_line) for o in overrides)])

    def _with_hydra(self, config_name: str | None, lines: Sequence[str]) -> DictConfig:
        in_a_sweep = GlobalHydra.instance().is_initialized()  # Hydra has initialized it for the same folders
        with nullcontext() if in_a_sweep else initialize_config_dir(str(self.folders[0]), version_base="1.3"):
            return compose(config_name, list(lines), return_hydra_config=True)

    def _without_refused(self, overrides: Sequence[Override]) -> tuple[list[Override], DictConfig, list[Refusal]]:
        """Return the overrides that compose together, their config, and the others with Hydra's error."""
        refused: list[Refusal] = [(o, ValueError("no such option")) for o in overrides if self._lacks_option(o)]
        kept = [o for o in overrides if not self._lacks_option(o)]
        while True:
            try:
                return kept, self._compose(kept), refused
            except ERRORS as error:
                culprit = self._culprit(kept, error)
                if culprit is None:
                    raise ConfigError([Mistake(self.config_name, first_lines(error))]) from error
                kept.remove(culprit)
                refused.append((culprit, error))

    def _culprit(self, overrides: Sequence[Override], error: Exception) -> Override | None:
        """Return the override that the message names, or else the last one of the shortest prefix that fails."""
        named = [o for o in overrides if re.search(_mention(o), str(error))]
        if len(named) == 1:
            return named[0]
        for length in range(len(overrides) + 1):
            try:
                self._compose(overrides[:length])
            except ERRORS:
                return overrides[length - 1] if length else None
        return None

    def _is_choice(self, override: Override) -> bool:
        group = override.key_or_group
        return group in self.groups or group.startswith("hydra/") or override.package is not None

    def _sets_value(self, override: Override) -> bool:
        return override.type == OverrideType.CHANGE and not self._is_choice(override)

    def _lacks_option(self, override: Override) -> bool:
        if override.key_or_group not in self.groups or override.is_delete():
            return False
        value = override.value()
        options = self.groups[override.key_or_group]
        return not all(option in options for option in (value if isinstance(value, list) else [value]))

    def _explain(self, override: Override, error: Exception, cfg: DictConfig) -> Mistake:
        line, key, value = str(override.input_line), override.key_or_group, override.value()
        if self._lacks_option(override):
            if value is None:
                return Mistake(line, f"group {key!r} cannot be null", f"leave it out with '~{key}'")
            return no_option(line, key, value, self.groups[key])
        problem = first_lines(error)
        return self._no_such_key(override, cfg) if "Could not override" in problem else Mistake(line, problem)

    def _no_such_key(self, override: Override, cfg: DictConfig) -> Mistake:
        line, key = str(override.input_line), override.key_or_group
        names = [*keys(cfg), *self.groups]
        remedy = unknown_key(line, key, names, options_with(key, self.folders), is_addable(key, cfg))
        return Mistake(line, f"there is no key or group {key!r}", remedy)


def _expand_home(node: Any) -> None:
    """Expand `~` at the start of every path; texts that a model reads stay."""
    for key in list(node) if OmegaConf.is_dict(node) else range(len(node)):
        if key in _TEXTS or OmegaConf.is_interpolation(node, key) or OmegaConf.is_missing(node, key):
            continue
        if isinstance(node[key], str) and node[key].startswith("~"):
            with read_write(node):
                node[key] = os.path.expanduser(node[key])
        elif OmegaConf.is_config(node[key]):
            _expand_home(node[key])


def _mention(override: Override) -> str:
    names = [str(override.input_line), override.get_key_element(), override.key_or_group]
    return "|".join(rf"(?<![\w.\-/]){re.escape(name)}(?![\w.\-/])" for name in names)
