"""Replace secrets before a configuration is saved, logged or printed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf

from diffusion_train.config.slots import slots
from diffusion_train.utils.files import atomic_file
from diffusion_train.utils.redact import HIDDEN, is_secret, redact_number, redact_text


def redact(config: object) -> Any:
    """Return plain, resolved containers with "***" in place of secrets."""
    if isinstance(config, (DictConfig, ListConfig)):
        config = OmegaConf.to_container(config, resolve=True, enum_to_str=True)
    return _redacted(config)


def redact_override(argument: str) -> str:
    """Return an argument of the command line, with "***" for a value that is a secret or contains one."""
    try:
        override = OverridesParser.create().parse_override(argument)
    except HydraException:  # an argument in which "???" stands for a value that only a job of a sweep has
        return redact_text(argument)
    value, shown = override.value(), override.value()
    names = override.key_or_group.split(".")
    for name in reversed(names):
        shown = {name: shown}
    shown = _redacted(shown)
    for _ in names:
        (shown,) = shown.values()
    is_hidden = shown == HIDDEN or (isinstance(value, (dict, list)) and shown != value)
    return f"{redact_text(argument.partition('=')[0])}={HIDDEN}" if is_hidden else redact_text(argument)


def save_config(config: object, path: Path) -> None:
    """Write the resolved config without secrets, atomically; it is enough to repeat the run."""
    with atomic_file(Path(path)) as file:
        file.write(yaml.safe_dump(redact(config), sort_keys=False, allow_unicode=True).encode())


def escape(node: object) -> Any:
    """Return plain containers in which text such as `${x}` stays text and is not interpolated."""
    if isinstance(node, dict):
        return {key: escape(value) for key, value in node.items()}
    if isinstance(node, (list, tuple)):
        return [escape(value) for value in node]
    return re.sub(r"(\\*)\$\{", lambda m: m[1] * 2 + "\\${", node) if isinstance(node, str) else node


def _redacted(node: object, path: tuple[str, ...] = (), is_named: bool = False) -> Any:
    """Redact plain containers at the dotted key of the names `path`;
    `is_named` says that a name calls them a secret.
    """
    if isinstance(node, dict):
        known = slots().keys.get(slots().find(path), frozenset[str]())
        is_pair = any(
            is_secret(str(node.get(name)), declared=True) for name in ("name", "key")
        )  # {name: password, value: ...}
        return {
            redact_text(key) if isinstance(key, str) else redact_number(key, False): _redacted(
                value,
                (*path, str(key)),
                is_named or is_secret(str(key), key in known) or (key == "value" and is_pair),
            )
            for key, value in node.items()
        }
    if isinstance(node, (list, tuple)):
        return [_redacted(value, (*path, f"[{i}]"), is_named) for i, value in enumerate(node)]
    if node is None or isinstance(node, bool):
        return node
    if isinstance(node, (int, float)):
        return redact_number(node, is_named)
    return HIDDEN if is_named and node else redact_text(str(node))
