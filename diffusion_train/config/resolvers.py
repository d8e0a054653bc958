"""What `${...}` may do: nothing that reads secrets or runs code."""

from __future__ import annotations

import os
from typing import Any

from omegaconf import OmegaConf

# A config is saved, logged and may come from somebody else, so it sees only variables that say where the program runs.
READABLE = ("HOME", "USER", "TMPDIR", "SCRATCH", "HOSTNAME")
READABLE_PREFIXES = ("SLURM_", "DIFFUSION_TRAIN_")


def install() -> None:
    OmegaConf.register_new_resolver("oc.env", environment, replace=True)


def environment(name: str, default: Any = None) -> Any:
    """Raises ValueError for a variable that is not on the list, or not set and without a default."""
    if name not in READABLE and not name.startswith(READABLE_PREFIXES):
        listed = ", ".join([*READABLE, *(f"{prefix}*" for prefix in READABLE_PREFIXES)])
        raise ValueError(f"a config may not read the environment variable {name}, only {listed}")
    value = os.environ.get(name, default)
    if value is None:
        raise ValueError(f"the environment variable {name} is not set")
    return value
