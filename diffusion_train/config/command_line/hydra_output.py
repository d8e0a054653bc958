"""What Hydra prints and saves, without secrets."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from diffusion_train.config.mistakes import Mistake, raise_all
from diffusion_train.config.secrets import redact, redact_override
from diffusion_train.utils.files import atomic_file
from diffusion_train.utils.redact import redact_text

_to_yaml, _save = OmegaConf.to_yaml, OmegaConf.save


def show(cfg: DictConfig, flags: argparse.Namespace) -> None:
    """Print the part of a config that `--cfg` and `--package` name. Raises ConfigError if it has no such package."""
    plain: Any = OmegaConf.to_container(_resolved(cfg) if flags.resolve else cfg, enum_to_str=True)
    shown = {key: value for key, value in _redacted(plain).items() if flags.cfg == "all" or _is_in(key, flags.cfg)}
    for name in (flags.package or "_global_").split("."):
        if name != "_global_":
            lacks = not isinstance(shown, dict) or name not in shown
            raise_all([Mistake(f"--package {flags.package}", "the config has no such key")] if lacks else [])
            shown = shown[name]
    print(_to_yaml(OmegaConf.create(shown)) if isinstance(shown, (dict, list)) else f"{shown}\n", end="")


def _resolved(cfg: DictConfig) -> DictConfig:
    known: Any = HydraConfig.instance()  # ${hydra:...} reads it
    before, known.cfg = known.cfg, cfg
    try:
        OmegaConf.resolve(cfg)
    finally:
        known.cfg = before
    return cfg


def _is_in(key: str, part: str | None) -> bool:
    return (key == "hydra") == (part == "hydra")


@contextmanager
def without_secrets(prints: bool) -> Iterator[None]:
    """Let no secret get into the YAML that Hydra and its plugins make, nor into standard output if `prints`.

    A sweep's multirun.yaml is saved atomically.
    """
    OmegaConf.to_yaml, OmegaConf.save = _redacted_yaml, _save_atomically  # type: ignore[method-assign,assignment]
    printed = StringIO()
    try:
        if prints:
            with redirect_stdout(printed):
                yield
        else:
            yield
    finally:
        OmegaConf.to_yaml, OmegaConf.save = _to_yaml, _save  # type: ignore[method-assign]
        print(redact_text(printed.getvalue()), end="")


def _redacted_yaml(cfg: Any, *, resolve: bool = False, sort_keys: bool = False) -> str:
    cfg = cfg if OmegaConf.is_config(cfg) else OmegaConf.create(cfg)
    plain = _redacted(OmegaConf.to_container(cfg, resolve=resolve, enum_to_str=True))
    return str(_to_yaml(OmegaConf.create(plain), sort_keys=sort_keys))


def _save_atomically(config: Any, f: Any, resolve: bool = False) -> None:
    if not isinstance(f, (str, Path)):
        _save(config, f, resolve)  # which calls `_redacted_yaml`
        return
    with atomic_file(Path(f)) as file:
        file.write(_redacted_yaml(config, resolve=resolve).encode())


def _redacted(plain: Any) -> Any:
    """Redact a config, and the arguments that its `hydra` node repeats."""
    hydra = plain.get("hydra") if isinstance(plain, dict) else None
    if isinstance(hydra, dict) and isinstance(hydra.get("overrides"), dict):
        lists = {name: [redact_override(line) for line in lines] for name, lines in hydra["overrides"].items()}
        job = hydra.get("job", {}) | {"override_dirname": ",".join(lists.get("task", []))}
        plain = plain | {"hydra": hydra | {"overrides": lists, "job": job}}
    return redact(plain)
