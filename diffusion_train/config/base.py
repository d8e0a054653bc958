"""The model that `pretrained` names: its parts are laid over a config, and what it was is written into it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hydra.core.override_parser.types import Override, OverrideType
from omegaconf import DictConfig, OmegaConf, open_dict

from diffusion_train.config.mistakes import ConfigError, Mistake, did_you_mean
from diffusion_train.config.redact import escape
from diffusion_train.config.run import load_run_config
from diffusion_train.config.values import is_unknown, keys, type_mistakes
from diffusion_train.pretrained import hub, parts, pipeline, source
from diffusion_train.utils.sha256 import file_sha256, sha256_of_files

# Nodes that are what the model says; those of the second line are so unless the command line chooses others.
_ENFORCED = ("network", "autoencoder", "conditioner", "diffusion.schedule", "diffusion.parameterization")
_CHOOSABLE = ("diffusion.weighting", "diffusion.time_sampler", "sampler", "guidance", "data.image_size")
_NODES = (*_ENFORCED, "condition", *_CHOOSABLE, "sampler.grid")
_EXACT = ("diffusion.schedule", "diffusion.parameterization")
# Settings of a part that are no part of the model.
_FREE = ("network.gradient_checkpointing", "autoencoder.dtype", "conditioner.max_bytes")
_PLACED = ("network", "autoencoder", "conditioner")  # parts that read files of the model
_EXAMPLE = (
    "add pretrained=<a folder in diffusers' layout, a .safetensors file, a run folder, or a hub id such as "
    "stable-diffusion-v1-5/stable-diffusion-v1-5>"
)


class Model(NamedTuple):
    kind: str  # sd, sdxl or run
    nodes: dict[str, Any]  # by dotted key


def named(cfg: DictConfig, arguments: Sequence[Override] = ()) -> str | None:
    """What `pretrained` is, if it is given."""
    for override in arguments:
        if override.key_or_group == "pretrained":
            return str(override.value() or "") or None
    if "pretrained" not in cfg or OmegaConf.is_missing(cfg, "pretrained"):
        return None
    return str(cfg.pretrained) if cfg.pretrained else None


def sets_part(override: Override) -> bool:
    """Whether this sets a value of a part, which the model's may know and that of the YAML files not."""
    return not override.is_delete() and override.key_or_group.startswith(tuple(f"{part}." for part in _NODES[:-2]))


def lay(cfg: DictConfig, arguments: Sequence[Override]) -> list[Mistake]:
    """Lays the model's parts over `cfg`, and over them what `arguments` set; -> what is wrong.

    Reads the model's description, never its weights.
    """
    wanted = named(cfg)
    if wanted is None:
        needed = "base" in cfg and cfg.base.accepts is not None
        return [Mistake("pretrained", "must be given", _EXAMPLE)] if needed else []
    try:
        model = describe(wanted, cfg.base.prediction, cfg.base.tokenizer)
    except ConfigError as error:
        return error.mistakes
    except ValueError as error:
        where, _, problem = str(error).partition(": ")
        return [Mistake(where, problem)]
    mistakes = [*_not_accepted(cfg, wanted, model), *_contradictions(cfg, wanted, model, arguments)]
    chosen = {o.key_or_group.replace("/", ".") for o in arguments}
    with open_dict(cfg):
        for path, node in model.nodes.items():
            if not (path in _CHOOSABLE and any(_covers(key, path) for key in chosen)):
                _lay(cfg, path, node)
        cfg.base.kind, cfg.base.folder = model.kind, wanted
        for override in filter(sets_part, arguments):
            mistakes += _set(cfg, override)
    return mistakes


def describe(wanted: str, prediction: str | None = None, tokenizer: str | None = None) -> Model:
    """Raises ValueError where there is no such model, or one that is not supported."""
    if source.kind(wanted) == "run":
        return Model("run", _nodes_of_run(wanted))
    layout = source.layout(wanted, prediction, tokenizer)
    return Model(pipeline.kind(layout, wanted), parts.of_pipeline(layout, wanted, wanted, prediction))


def settle(cfg: DictConfig) -> None:
    """Finds the model's files, points the parts at them, and records in `cfg.base` which they are.

    Fetches and converts what must be. Raises ValueError if they are not those that `cfg.base` already names.
    """
    wanted = named(cfg)
    if wanted is None:
        return
    try:
        kind = source.kind(wanted)
    except ValueError as error:
        hint = "; if it has moved, add pretrained=<where it is now>" if cfg.base.sha256 else ""
        raise ValueError(f"{error}{hint}") from error
    if kind != "hub":
        wanted = str(Path(wanted).expanduser().absolute())
    place = wanted if kind == "run" else str(_folder(cfg, wanted, kind))
    digest = _digest(kind, place, wanted)
    if cfg.base.sha256 not in (None, digest):
        raise ValueError(
            f"pretrained={cfg.pretrained}: other weights (SHA-256 {digest[:12]}...) than base.sha256="
            f"{str(cfg.base.sha256)[:12]}... names; give the model that has those: pretrained=<where it is now>"
        )
    with open_dict(cfg):
        for part in _PLACED:
            _move(cfg[part], str(cfg.base.folder), place)
        cfg.pretrained, cfg.base.folder, cfg.base.sha256 = wanted, place, digest
        cfg.base.revision = hub.commit(Path(place)) if kind == "hub" else None


def _folder(cfg: DictConfig, wanted: str, kind: str) -> Path:
    pinned = kind == "hub" and cfg.base.revision
    where = f"{wanted.partition('@')[0]}@{cfg.base.revision}" if pinned else wanted
    return source.folder(where, cfg.base.prediction, cfg.base.tokenizer)


def _digest(kind: str, place: str, wanted: str) -> str:
    if kind == "run":
        return file_sha256(source.weights_of_run(Path(wanted)))
    if kind == "file":
        return file_sha256(Path(wanted))
    return sha256_of_files(pipeline.weight_files(Path(place), wanted))


def _nodes_of_run(wanted: str) -> dict[str, Any]:
    file = source.weights_of_run(Path(wanted).expanduser())
    saved = load_run_config(file)
    adapter = str(OmegaConf.select(saved, "adapter._target_"))
    if not adapter.endswith(".NoAdapter"):
        raise ValueError(
            f"pretrained={wanted}: a run of adapter {adapter.rpartition('.')[2]}, which is no whole model; make one of "
            f"it: diffusion-train export run={wanted} format=diffusers out=<folder>, and give that folder"
        )
    plain = OmegaConf.to_container(saved, resolve=True)
    folder = _select(plain, "base.folder")
    if _select(plain, "base.kind") in ("sd", "sdxl") and not Path(folder).is_dir():
        raise ValueError(
            f"pretrained={wanted}: its own model was read from {folder}, which is not there any more; put it back, or a "
            "link in its place"
        )
    found = {path: _select(plain, path) for path in _NODES}
    return {path: escape(node) for path, node in found.items() if node is not None}


def _select(plain: Any, path: str) -> Any:
    for name in path.split("."):
        plain = plain.get(name) if isinstance(plain, dict) else None
    return plain


def _lay(cfg: DictConfig, path: str, node: Any) -> None:
    """In place of what is there; settings that are free keep their value where the part is of the same class."""
    parent, _, name = path.rpartition(".")
    above = OmegaConf.select(cfg, parent) if parent else cfg
    if above is None or name not in above:
        return
    old = OmegaConf.to_container(above, resolve=False).get(name)  # type: ignore[union-attr]
    if isinstance(node, dict) and isinstance(old, dict) and old.get("_target_") == node.get("_target_"):
        node = node | {key: old[key] for key in old if f"{path}.{key}" in _FREE}
    above[name] = node


def _set(cfg: DictConfig, override: Override) -> list[Mistake]:
    line, key = str(override.input_line), override.key_or_group
    if override.type == OverrideType.CHANGE and is_unknown(key, cfg):
        own = [name for name in keys(cfg) if name.split(".")[0] == key.split(".")[0]]
        remedy = did_you_mean(key, own) or f"a new key needs a plus: +{line}"
        return [Mistake(line, f"the model's part has no key {key!r}", remedy)]
    mistakes = list(type_mistakes(override, cfg, ()))
    if not mistakes:
        OmegaConf.update(cfg, key, override.value(), merge=True, force_add=True)
    return mistakes


def _not_accepted(cfg: DictConfig, wanted: str, model: Model) -> list[Mistake]:
    accepted = cfg.base.accepts
    if accepted is None or model.kind in accepted:
        return []
    kinds = {"sd": "Stable Diffusion 1 or 2", "sdxl": "Stable Diffusion XL", "run": "a run of diffusion_train"}
    problem = f"is {kinds[model.kind]}, and {cfg.name} is for {' and '.join(kinds[kind] for kind in accepted)}"
    recipe = "experiment=sdxl_lora is for it; or " if model.kind == "sdxl" else ""
    return [Mistake(f"pretrained={wanted}", problem, f"{recipe}base.accepts=null tries all the same")]


def _contradictions(cfg: DictConfig, wanted: str, model: Model, arguments: Sequence[Override]) -> Iterator[Mistake]:
    """Choices of the command line that are another part than the model's."""
    composed = OmegaConf.to_container(cfg, resolve=False)
    for override in arguments:
        for path in _ENFORCED:
            node = model.nodes.get(path)
            if node and _contradicts(override, composed, path, node):
                yield _contradiction(override, wanted, path, node)
                break


def _contradicts(override: Override, composed: Any, path: str, node: dict[str, Any]) -> bool:
    key = override.key_or_group.replace("/", ".")
    if path in _EXACT and key.startswith(f"{path}."):
        own = key.removeprefix(f"{path}.")
        return own in node and node[own] != override.value()
    if not _covers(key, path):
        return False
    chosen = _select(composed, path)
    same_class = isinstance(chosen, dict) and chosen.get("_target_") == node["_target_"]
    return not same_class or (path in _EXACT and any(chosen.get(name) != value for name, value in node.items()))


def _contradiction(override: Override, wanted: str, path: str, node: dict[str, Any]) -> Mistake:
    settings = [f"{name}={value}" for name, value in node.items() if name != "_target_" and path in _EXACT]
    own = " ".join([node["_target_"].rpartition(".")[2], *settings])
    free = "; diffusion/weighting and diffusion/time_sampler are free" if override.key_or_group == "diffusion" else ""
    return Mistake(str(override.input_line), f"{path} of pretrained={wanted} is {own}", f"leave it out{free}")


def _covers(key: str, path: str) -> bool:
    return path == key or path.startswith(f"{key}.")


def _move(node: Any, old: str, new: str) -> None:
    for key in list(node.keys()) if OmegaConf.is_dict(node) else range(len(node)):
        if OmegaConf.is_interpolation(node, key) or OmegaConf.is_missing(node, key):
            continue
        if node[key] == old:
            node[key] = new
        elif OmegaConf.is_config(node[key]):
            _move(node[key], old, new)
