"""Configuration: composes YAML and the command line, checks the result and builds objects.

Only this package uses Hydra.
"""

from diffusion_train.config.checks.dry_build import attempt, dry_build, mistakes_of
from diffusion_train.config.checks.signatures import check
from diffusion_train.config.checks.values import settings
from diffusion_train.config.mistakes import ConfigError, Mistake, raise_all, too_small, unknown_names, unwritable
from diffusion_train.config.resolve_files import place_files, resolve_files
from diffusion_train.config.run import compose_run, from_container, load_run_config
from diffusion_train.config.secrets import redact, save_config
from diffusion_train.config.targets import allow, allowed, build, check_targets

__all__ = [
    "ConfigError",
    "Mistake",
    "allow",
    "allowed",
    "attempt",
    "build",
    "check",
    "check_targets",
    "compose_run",
    "from_container",
    "load_run_config",
    "mistakes_of",
    "place_files",
    "raise_all",
    "redact",
    "save_config",
    "settings",
    "resolve_files",
    "dry_build",
    "too_small",
    "unknown_names",
    "unwritable",
]
