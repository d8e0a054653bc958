"""Secrets are replaced before a configuration is saved, logged or printed."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, ListConfig, OmegaConf

from diffusion_train.utils.redact import HIDDEN, redact_urls

# Names whose value is a secret when it is text: the last words of a key such as hub_token or wandbApiKey.
_SECRET_NAME = re.compile(
    r"(?:^|_)(?:tokens?|passw(?:or)?d|pwd|passphrase|secrets?|api_?key|access_?key(?:_id)?|secret_?key|private_?key"
    r"|account_key|authorization|auth|credentials?|bearer|cookie|sas)$"
)
# Tokens of a text encoder's vocabulary are no secrets.
_VOCABULARY = re.compile(r"(?:^|_)(?:pad|eos|bos|unk|cls|sep|mask|placeholder|initializer|special|class)_tokens?$")

_ASSIGNMENT = re.compile(r"(?<![\w?&;])([+~]{0,2}([\w./-]+)=)(?!\*\*\*)(\S.*)", re.DOTALL)
_KNOWN_FORMS = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{16,}|(?:AKIA|ASIA)[A-Z0-9]{16}|gh[a-z]_[A-Za-z0-9]{16,}|sk-[A-Za-z0-9_-]{16,})"
    r"|(?<=Bearer )\S+|(?<=Basic )\S+"
)


def redact(config: Any) -> Any:
    """Plain, resolved containers in which "***" stands for every secret."""
    if isinstance(config, (DictConfig, ListConfig)):
        config = OmegaConf.to_container(config, resolve=True, enum_to_str=True)
    return _redacted(config, secret=False)


def redact_text(text: str) -> str:
    """A message or argument without secrets: `hub_token=abc` -> `hub_token=***`; signed URLs lose their signature."""
    text = _KNOWN_FORMS.sub(HIDDEN, redact_urls(text))
    return _ASSIGNMENT.sub(lambda m: m[1] + HIDDEN if is_secret(re.split(r"[./]", m[2])[-1]) else m[0], text)


def is_secret(name: str) -> bool:
    snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).replace("-", "_").lower()
    return bool(_SECRET_NAME.search(snake)) and not _VOCABULARY.search(snake)


def save_config(config: Any, path: Path) -> None:
    """Writes the resolved config without secrets, whole or not at all; enough to repeat the run."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(yaml.safe_dump(redact(config), sort_keys=False, allow_unicode=True), encoding="utf-8")
    os.replace(temporary, path)


def escape(node: Any) -> Any:
    """Plain containers in which text such as `${x}` stays text instead of becoming an interpolation."""
    if isinstance(node, dict):
        return {key: escape(value) for key, value in node.items()}
    if isinstance(node, (list, tuple)):
        return [escape(value) for value in node]
    return re.sub(r"(\\*)\$\{", lambda m: m[1] * 2 + "\\${", node) if isinstance(node, str) else node


def _redacted(node: Any, secret: bool) -> Any:
    if isinstance(node, dict):
        return {key: _redacted(value, secret or is_secret(str(key))) for key, value in node.items()}
    if isinstance(node, (list, tuple)):
        return [_redacted(value, secret) for value in node]
    if isinstance(node, str):
        return HIDDEN if secret and node else redact_text(node)
    return node if node is None or isinstance(node, (bool, int, float)) else str(node)
