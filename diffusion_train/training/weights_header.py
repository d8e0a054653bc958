"""What weights.safetensors says about its run, in its header. Reading it needs no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open

from diffusion_train.utils.schema import COUNT, PLAIN_MAPPING, SIZE, TEXT, Maybe, problems, shown
from diffusion_train.utils.text import indented, printable

FORMAT = 1  # of checkpoints and of weights.safetensors
DESCRIPTION = "diffusion_train"  # the name of the description in the header's metadata

_SCHEMA = {"format": SIZE, "config": PLAIN_MAPPING, "shape": [SIZE], "step": Maybe(COUNT), "sha256": Maybe(TEXT)}


def read_description(path: Path) -> dict[str, Any]:
    """Return the description in the header of a weights file, without reading tensors or testing their hash.

    Raises ValueError if there is none, if parts of it are missing or if it has a newer format.
    """
    try:
        with safe_open(path, "numpy") as file:
            metadata = file.metadata()
    except Exception as error:
        raise not_readable(path, error) from error
    return description_in(path, metadata)


def description_in(path: Path, metadata: Mapping[str, str] | None) -> dict[str, Any]:
    """Return the description in the `metadata` of a weights file; raises the errors of `read_description`."""
    if DESCRIPTION not in (metadata or {}):
        raise ValueError(f"{path}: the header must describe a diffusion_train run, but does not")
    try:
        description = json.loads((metadata or {})[DESCRIPTION])
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: the description of the run in the header is damaged ({error})") from error
    if isinstance(description, dict) and "format" in description:
        check_format(path, description["format"])
    wrong = list(problems(description, _SCHEMA, "header"))
    # such as a damaged "sha256", without which the hash would not be tested
    wrong = wrong or [f"header.{printable(key)}: unknown" for key in description if key not in _SCHEMA]
    if wrong:
        raise ValueError(f"{path}: the header does not describe a diffusion_train run:{indented(wrong)}")
    return dict(description)


def check_format(path: Path, written: object) -> None:
    """Raise ValueError unless the format of a file is one that this version reads."""
    if not isinstance(written, int) or not 1 <= written <= FORMAT:
        raise ValueError(f"{path}: format must be at most {FORMAT}, got {shown(written)}; update diffusion_train")


def not_readable(path: Path, error: Exception) -> ValueError:
    return ValueError(f"{path}: not a readable safetensors file ({error}); give an undamaged copy of it")
