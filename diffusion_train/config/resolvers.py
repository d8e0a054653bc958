"""The resolvers that `${...}` may use; none of them reads secrets or runs code."""

from __future__ import annotations

import os
from typing import Any

from omegaconf import OmegaConf

# A config is saved and logged and may come from somebody else, so it may read only variables that say where it runs.
READABLE = ("HOME", "USER", "TMPDIR", "SCRATCH", "HOSTNAME")
READABLE_PREFIXES = ("SLURM_", "DIFFUSION_TRAIN_")


def install() -> None:
    OmegaConf.register_new_resolver("oc.env", environment, replace=True)
    OmegaConf.register_new_resolver("home", os.path.expanduser, replace=True)


def environment(name: str, default: Any = None) -> Any:
    """Return an environment variable. Raises ValueError if it is not readable, or not set and without a default."""
    if name not in READABLE and not name.startswith(READABLE_PREFIXES):
        listed = ", ".join([*READABLE, *(f"{prefix}*" for prefix in READABLE_PREFIXES)])
        raise ValueError(f"a config can only read the environment variables {listed}, got {name}")
    value = os.environ.get(name, default)
    if value is None:
        raise ValueError(f"the environment variable {name} is not set")
    return value
