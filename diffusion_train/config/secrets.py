"""Replace secrets before a configuration is saved, logged or printed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, ListConfig, OmegaConf

from diffusion_train.config.slots import slots
from diffusion_train.utils.files import atomic_file
from diffusion_train.utils.redact import HIDDEN, is_secret, redact_text


def redact(config: object) -> Any:
    """Return plain, resolved containers with "***" in place of secrets."""
    if isinstance(config, (DictConfig, ListConfig)):
        config = OmegaConf.to_container(config, resolve=True, enum_to_str=True)
    return _redacted(config)


def redact_override(argument: str) -> str:
    """Return an argument of the command line, with "***" for a value that is a secret or contains one."""
    override = OverridesParser.create().parse_override(argument)
    value, path = override.value(), tuple(override.key_or_group.split("."))
    nested: Any = value
    for name in reversed(path):
        nested = {name: nested}
    shown = _redacted(nested)
    for name in path:
        shown = shown[name]
    is_hidden = shown == HIDDEN or (isinstance(value, (dict, list)) and shown != value)
    return argument.partition("=")[0] + f"={HIDDEN}" if is_hidden else redact_text(argument)


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


def _redacted(node: object, path: tuple[str, ...] = (), texts: bool = False, numbers: bool = False) -> Any:
    """Redact plain containers at the dotted key of the names `path`.

    `texts` and `numbers` say that all text and all numbers in them are secrets.
    """
    if isinstance(node, dict):
        named = [str(node.get(name)) for name in ("name", "key")]  # {name: password, value: ...}
        known = slots().keys.get(slots().find(path), frozenset[str]())
        return {
            key: _redacted(
                value,
                (*path, str(key)),
                texts or is_secret(str(key), key in known) or (key == "value" and any(map(is_secret, named))),
                numbers or any(is_secret(name, number=True) for name in (str(key), *named * (key == "value"))),
            )
            for key, value in node.items()
        }
    if isinstance(node, (list, tuple)):
        return [_redacted(value, (*path, f"[{i}]"), texts, numbers) for i, value in enumerate(node)]
    if node is None or isinstance(node, bool):
        return node
    if isinstance(node, (int, float)):
        return HIDDEN if numbers else node
    return HIDDEN if texts and node else redact_text(str(node))
