"""The licence of a model, as its files state it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from diffusion_train.pretrained import single_file

_MAX_HEAD = 1 << 16


def license_of(folder: Path) -> str | None:
    """Return the licence in the head of README.md, the model card of the hub; None if it states none."""
    card = folder / "README.md"
    if not card.is_file():
        return None
    with card.open(encoding="utf-8", errors="replace") as file:
        match = re.match(r"---\s*\n(.*?)\n---\s*(\n|$)", file.read(_MAX_HEAD), re.DOTALL)
    try:
        head = yaml.safe_load(match[1]) if match else None
    except (yaml.YAMLError, RecursionError):
        head = None
    head = head if isinstance(head, dict) else {}
    name = head.get("license")
    return _text(head.get("license_name") or name if name in (None, "other") else name)


def license_of_file(path: Path) -> str | None:
    """Return the licence in the metadata of a single file (https://github.com/Stability-AI/ModelSpec), or None."""
    return _text(single_file.read_header(path).metadata.get("modelspec.license"))


def _text(value: Any) -> str | None:
    return " ".join(str(value).split())[:300] if value else None
