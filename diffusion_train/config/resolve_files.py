"""Find the files of the model that `pretrained` names, and write their paths and hash into the config."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from diffusion_train.config.base_model import named
from diffusion_train.config.run import load_run_config
from diffusion_train.pretrained import diffusers_folder, hub, origin
from diffusion_train.pretrained.model_license import license_of, license_of_file
from diffusion_train.run_folder import weights_file
from diffusion_train.utils.files import file_sha256, sha256_of_files

_PLACED = ("network", "autoencoder", "conditioner")  # parts that read files of the model


def resolve_files(cfg: DictConfig) -> None:
    """Find the model's files, set their paths in the parts, and record them in `cfg.base_record`.

    Downloads and converts files if needed. Raises ValueError if their hash differs from that in `cfg.base` or the
    record.
    """
    if named(cfg) is None:
        return
    pinned = _pin(cfg, "sha256")
    kind, pretrained, folder = place_files(cfg)
    digest = _digest(kind, folder, pretrained)
    if pinned not in (None, digest):
        raise ValueError(
            f"pretrained={cfg.pretrained}: the SHA-256 of the weights must be base.sha256={str(pinned)[:12]}..., got "
            f"{digest[:12]}...; give the model with those weights: pretrained=<where it is now>"
        )
    with open_dict(cfg):
        cfg.pretrained = pretrained
        cfg.base_record.folder, cfg.base_record.sha256 = folder, digest
        cfg.base_record.license = _pin(cfg, "license") or _license(kind, folder, pretrained)
        cfg.base_record.revision = hub.commit(Path(folder)) if kind == "hub" else None
        if cfg.base.tokenizer:
            cfg.base.tokenizer = _absolute(cfg.base.tokenizer)


def place_files(cfg: DictConfig, weights: bool = True) -> tuple[str, str, str]:
    """Find the model's files and set their paths in the parts that `cfg` has; return kind, `pretrained` and folder.

    Downloads and converts files if needed; without `weights`, none of a model of the hub. Raises ValueError if there is
    no such model.
    """
    pretrained = named(cfg) or ""
    try:
        kind = origin.kind(pretrained)
    except ValueError as error:
        hint = "; if it has moved, add pretrained=<where it is now>" if _pin(cfg, "sha256") else ""
        raise ValueError(f"{error}{hint}") from error
    if kind != "hub":
        pretrained = _absolute(pretrained)
    folder = pretrained if kind == "run" else str(_folder(cfg, pretrained, kind, weights))
    with open_dict(cfg):
        for part in _PLACED:
            _move(cfg.get(part, {}), str(cfg.base_record.folder), folder)
    return kind, pretrained, folder


def _pin(cfg: DictConfig, name: str) -> str | None:
    """Return the value that the user sets, else the one that an earlier start of the run recorded, else None."""
    found = cfg.base.get(name) or cfg.base_record.get(name)
    return str(found) if found else None


def _absolute(path: str) -> str:
    return str(Path(path).expanduser().absolute())


def _folder(cfg: DictConfig, pretrained: str, kind: str, weights: bool) -> Path:
    revision = _pin(cfg, "revision") if kind == "hub" else None
    where = f"{pretrained.partition('@')[0]}@{revision}" if revision else pretrained
    return origin.folder(where, cfg.base.prediction, cfg.base.tokenizer, weights or kind != "hub")


def _digest(kind: str, folder: str, pretrained: str) -> str:
    if kind == "run":
        return file_sha256(weights_file(Path(pretrained), "pretrained"))
    if kind == "file":
        return file_sha256(Path(pretrained))
    return sha256_of_files(diffusers_folder.weight_files(Path(folder), pretrained))


def _license(kind: str, folder: str, pretrained: str) -> str | None:
    if kind == "run":
        found = OmegaConf.select(load_run_config(weights_file(Path(pretrained), "pretrained")), "base_record.license")
        return str(found) if found else None
    return license_of_file(Path(pretrained)) if kind == "file" else license_of(Path(folder))


def _move(node: Any, old: str, new: str) -> None:
    for key in list(node.keys()) if OmegaConf.is_dict(node) else range(len(node)):
        if OmegaConf.is_interpolation(node, key) or OmegaConf.is_missing(node, key):
            continue
        if node[key] == old:
            node[key] = new
        elif OmegaConf.is_config(node[key]):
            _move(node[key], old, new)
