"""The model that `pretrained` names: its parts replace those of a config."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from hydra.core.override_parser.types import Override, OverrideType
from omegaconf import DictConfig, OmegaConf, open_dict

from diffusion_train.config.checks.values import is_unknown, keys, set_value, settings
from diffusion_train.config.mistakes import ConfigError, Mistake, did_you_mean
from diffusion_train.config.run import load_run_config
from diffusion_train.config.sampler_choice import takes_model_grid, with_model_grid
from diffusion_train.config.secrets import escape
from diffusion_train.pretrained import diffusers_folder, origin, parts
from diffusion_train.run_folder import weights_file
from diffusion_train.utils.text import argument

# Nodes that the model determines; the command line may choose others for those of the second line.
_ENFORCED = ("network", "autoencoder", "conditioner", "diffusion.schedule", "diffusion.parameterization")
_CHOOSABLE = ("diffusion.weighting", "diffusion.time_sampler", "sampler", "guidance", "data.image_size")
_NODES = (*_ENFORCED, "condition", *_CHOOSABLE, "sampler.grid")
_EXACT = ("diffusion.schedule", "diffusion.parameterization")
# Settings of a part that do not belong to the model.
_FREE = ("network.gradient_checkpointing", "autoencoder.dtype", "conditioner.max_bytes")
_ABSENT = object()
_EXAMPLE = (
    "add pretrained=<a folder in diffusers' layout, a .safetensors file, a run folder, or a hub id such as "
    "stable-diffusion-v1-5/stable-diffusion-v1-5>"
)


class Model(NamedTuple):
    """The description of a base model: its parts as config nodes, without its weights."""

    kind: str  # sd, sdxl or run
    nodes: dict[str, Any]  # by dotted key


def named(cfg: DictConfig, arguments: Sequence[Override] = ()) -> str | None:
    """Return the value of `pretrained`, which `arguments` may set, or None if it is null."""
    for override in arguments:
        if override.key_or_group == "pretrained":
            return str(override.value() or "") or None
    return str(OmegaConf.select(cfg, "pretrained") or "") or None


def sets_part(override: Override) -> bool:
    """Whether this sets a value of a part that the model may replace, so that the YAML files may not have the key."""
    return not override.is_delete() and override.key_or_group.startswith(tuple(f"{part}." for part in _NODES[:-2]))


def overlay(cfg: DictConfig, arguments: Sequence[Override]) -> list[Mistake]:
    """Replace parts of `cfg` by those of the model, then apply `arguments`; return the mistakes.

    Reads the model's description, never its weights.
    """
    pretrained = named(cfg)
    if pretrained is None:
        needed = "base" in cfg and cfg.base.get("accepts") is not None
        return [Mistake("pretrained", "must be given", _EXAMPLE)] if needed else []
    try:
        model = describe(pretrained, cfg.base.prediction, cfg.base.tokenizer)
    except ConfigError as error:
        return error.mistakes
    except ValueError as error:
        where, _, problem = str(error).partition(": ")
        return [Mistake(where, problem)]
    mistakes = [*_not_accepted(cfg, pretrained, model), *_contradictions(cfg, pretrained, model, arguments)]
    chosen = {o.key_or_group.replace("/", ".") for o in arguments}
    with open_dict(cfg):
        for path, node in model.nodes.items():
            is_chosen = path in _CHOOSABLE and any(_covers(key, path) for key in chosen)
            if path == "sampler.grid":
                _overlay_grid(cfg, node, "sampler.grid" in chosen)
            elif not is_chosen:
                _overlay_part(cfg, path, node)
        cfg.base_record = {"kind": model.kind, "folder": pretrained}
        mistakes += _settings(cfg, chosen)
        for override in filter(sets_part, arguments):
            mistakes += _set(cfg, override)
    return mistakes


def describe(pretrained: str, prediction: str | None = None, tokenizer: str | None = None) -> Model:
    """Return the description of a model. Raises ValueError if it does not exist or is not supported."""
    if origin.kind(pretrained) == "run":
        return Model("run", _nodes_of_run(pretrained))
    layout = origin.folder(pretrained, prediction, tokenizer, weights=False)
    return Model(
        diffusers_folder.kind(layout, pretrained), parts.of_pipeline(layout, pretrained, pretrained, prediction)
    )


def _nodes_of_run(pretrained: str) -> dict[str, Any]:
    file = weights_file(Path(pretrained).expanduser(), "pretrained")
    plain = OmegaConf.to_container(load_run_config(file), resolve=True)
    folder, adapter = _select(plain, "base_record.folder"), str(_select(plain, "adapter._target_"))
    if _select(plain, "adapter.text_encoder"):
        raise ValueError(
            f"pretrained={pretrained}: a run with adapted text encoders cannot be a base model; export it with "
            f"`diffusion-train export {argument('run', pretrained)} format=diffusers out=<folder>` and give that folder"
        )
    needs_base = _select(plain, "base_record.kind") in ("sd", "sdxl") or not adapter.endswith(".NoAdapter")
    if needs_base and not Path(str(folder)).exists():
        raise ValueError(
            f"pretrained={pretrained}: its base model was read from {folder}, which no longer exists; put it "
            "back, or create a link to it there"
        )
    found = {path: _select(plain, path) for path in _NODES}
    return {path: escape(node) for path, node in found.items() if node is not None}


def _select(plain: object, path: str) -> Any:
    for name in path.split("."):
        plain = plain.get(name) if isinstance(plain, dict) else None
    return plain


def _overlay_part(cfg: DictConfig, path: str, node: object) -> None:
    """Replace a part. If the new one has the same class, settings in `_FREE` keep their values."""
    parent, _, name = path.rpartition(".")
    above = OmegaConf.select(cfg, parent) if parent else cfg
    if above is None or name not in above:
        return
    old = OmegaConf.to_container(above, resolve=False).get(name)  # type: ignore[union-attr]
    if isinstance(node, dict) and isinstance(old, dict) and old.get("_target_") == node.get("_target_"):
        node = node | {key: old[key] for key in old if f"{path}.{key}" in _FREE}
    above[name] = node


def _overlay_grid(cfg: DictConfig, node: dict[str, Any], chosen: bool) -> None:
    """Replace the grid of a sampler that has the plain one; Karras levels stay, and refer to the model's grid."""
    own: Any = OmegaConf.to_container(cfg.get("sampler") or OmegaConf.create(), resolve=False)
    if "grid" in own:
        cfg.sampler.grid = node if takes_model_grid(own) and not chosen else with_model_grid(own["grid"], node)


def _settings(cfg: DictConfig, chosen: set[str]) -> Iterator[Mistake]:
    """Apply the recipe's `base.settings` for this kind of model, except to keys that the command line has chosen."""
    pretrained = OmegaConf.to_container(cfg.base, resolve=False).get("settings") or {}  # type: ignore[union-attr]
    cfg.base.settings = None
    for path, value in settings(pretrained.get(cfg.base_record.kind), "").items():
        if OmegaConf.select(cfg, path, default=_ABSENT) is _ABSENT:
            yield Mistake(f"base.settings.{cfg.base_record.kind}.{path}", "there is no such key", "correct the recipe")
        elif not any(_covers(key, path) for key in chosen):
            OmegaConf.update(cfg, path, value, merge=False)


def _set(cfg: DictConfig, override: Override) -> list[Mistake]:
    line, key = str(override.input_line), override.key_or_group
    if override.type == OverrideType.CHANGE and is_unknown(key, cfg):
        own = [name for name in keys(cfg) if name.split(".")[0] == key.split(".")[0]]
        remedy = did_you_mean(key, own) or f"to add a new key, write +{line}"
        return [Mistake(line, f"the pretrained model has no key {key!r}", remedy)]
    return set_value(cfg, override)


def _not_accepted(cfg: DictConfig, pretrained: str, model: Model) -> list[Mistake]:
    accepted = cfg.base.get("accepts")
    if accepted is None or model.kind in accepted:
        return []
    kinds = {"sd": "Stable Diffusion 1 or 2", "sdxl": "Stable Diffusion XL", "run": "a run of diffusion_train"}
    problem = f"is {kinds[model.kind]}, but {cfg.name} is for {' and '.join(kinds[kind] for kind in accepted)}"
    recipe = "use experiment=sdxl_lora; or " if model.kind == "sdxl" else ""
    return [Mistake(f"pretrained={pretrained}", problem, f"{recipe}try it anyway with base.accepts=null")]


def _contradictions(cfg: DictConfig, pretrained: str, model: Model, arguments: Sequence[Override]) -> Iterator[Mistake]:
    """Yield a mistake for each choice on the command line that contradicts the model."""
    composed = OmegaConf.to_container(cfg, resolve=False)
    for override in arguments:
        for path in _ENFORCED:
            node = model.nodes.get(path)
            if node and _contradicts(override, composed, path, node):
                yield _contradiction(override, pretrained, path, node)
                break


def _contradicts(override: Override, composed: object, path: str, node: dict[str, Any]) -> bool:
    key = override.key_or_group.replace("/", ".")
    if path in _EXACT and key.startswith(f"{path}."):
        own = key.removeprefix(f"{path}.")
        return own in node and node[own] != override.value()
    if not _covers(key, path):
        return False
    chosen = _select(composed, path)
    same_classes = isinstance(chosen, dict) and _classes(chosen) == _classes(node)
    return not same_classes or (path in _EXACT and any(chosen.get(name) != value for name, value in node.items()))


def _classes(node: dict[str, Any]) -> list[str]:
    """Return the classes of a part and of the parts in it, such as a text encoder, which decides what the part is."""
    inner = [_classes(value) for _, value in sorted(node.items()) if isinstance(value, dict)]
    own = [node["_target_"]] if "_target_" in node else []
    return [*own, *chain.from_iterable(inner)]


def _contradiction(override: Override, pretrained: str, path: str, node: dict[str, Any]) -> Mistake:
    settings = [f"{name}={value}" for name, value in node.items() if name != "_target_" and path in _EXACT]
    classes = " with ".join(name.rpartition(".")[2] for name in _classes(node))
    own = " ".join([classes, *settings])
    free = (
        "; only diffusion/weighting and diffusion/time_sampler can be chosen"
        if override.key_or_group == "diffusion"
        else ""
    )
    return Mistake(
        str(override.input_line), f"must fit pretrained={pretrained}, whose {path} is {own}", f"leave it out{free}"
    )


def _covers(key: str, path: str) -> bool:
    return path == key or path.startswith(f"{key}.")
