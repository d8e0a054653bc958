"""Build the network, the conditioner and the sampling pipeline of a config from its parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from torch import Tensor, nn

from diffusion_train import config
from diffusion_train.adapter.lora import merge
from diffusion_train.conditioner.base import Conditioner
from diffusion_train.config.checks.signatures import target_nodes
from diffusion_train.config.targets import locate
from diffusion_train.data.caption.tokens import Tokens
from diffusion_train.pipeline import Pipeline
from diffusion_train.run_folder import weights_file
from diffusion_train.training.weights import load_exactly, load_weights, trainable_modules, trainable_state
from diffusion_train.utils.text import printable


def build_network(cfg: DictConfig, weights: Mapping[str, Tensor] | None = None) -> nn.Module:
    """Return the network of a config, with the weights of the run that `pretrained` names (if any) and the adapter.

    An adapter of that run is merged into its weights. If `weights`, which the caller loads afterwards, cover the whole
    network, that run is not read. Raises ValueError if weights are missing or belong to another network, or if the
    adapter would freeze weights that no file contains.
    """
    network = config.build(cfg.network)
    if starts_from_run(cfg) and (weights is None or weights.keys() != network.state_dict().keys()):
        load_exactly(network, _whole_weights(Path(cfg.pretrained)), network.state_dict())
    adapted: nn.Module = config.build(cfg.adapter)(network)
    from_folder = isinstance(cfg.network.get("model"), str)
    if not (cfg.pretrained or from_folder or all(parameter.requires_grad for parameter in adapted.parameters())):
        raise ValueError(
            "pretrained=null: the adapter freezes the network's own weights, which would stay random and never be "
            "saved; give pretrained=<the model to train on>, or adapter=none"
        )
    return adapted


def _whole_weights(run: Path) -> dict[str, Tensor]:
    """Return all weights of a run's network, with an adapter merged into its base model.

    Raises ValueError if the base model is missing, or if its hash is not the one in the run's record.
    """
    weights, description = load_weights(weights_file(run, "pretrained"))
    cfg = config.from_container(description["config"])
    if not is_adapted(cfg):
        return weights
    try:
        config.resolve_files(cfg)
    except ValueError as error:
        raise ValueError(
            f"pretrained={run}: is an adapter whose base model is missing or has changed: {error}"
        ) from error
    network = build_network(cfg, weights)
    load_exactly(network, weights, trainable_state(network))
    return merge(network).state_dict()


def build_conditioner(cfg: DictConfig) -> Conditioner:
    """Return the conditioner of a config, with its adapter if it has one.

    Raises ValueError if it cannot be adapted, or if weights of its text encoder are missing.
    """
    conditioner: Conditioner = config.build(cfg.conditioner)
    for text in conditioner.texts():
        text.encoder.check_weights()
    if cfg.adapter.get("text_encoder"):
        conditioner.adapt(config.build(cfg.adapter).on_text_encoder)
    return conditioner


def build_token_counter(cfg: DictConfig) -> Tokens | None:
    """Return a token counter for the conditioner's text encoder, or None for conditioner=none. Needs no weights.

    Raises ValueError if the conditioner has no text encoder that counts tokens.
    """
    if cfg.conditioner["_target_"].endswith(".NoCondition"):
        return None
    encoder: Any = getattr(config.build(cfg.conditioner), "encoder", None)
    if not hasattr(encoder, "num_tokens"):
        raise ValueError("conditioner: must have a text encoder that counts tokens; use packaged_text, clip_text or t5")
    return Tokens(type(encoder).__name__, encoder.max_length, encoder.num_tokens)


def load_pipeline(run: Path, cfg: DictConfig | None = None, device: str = "cpu") -> Pipeline:
    """Return the pipeline that samples from a run, with the weights of its first EMA.

    `cfg` is the run's config with changed sampling settings, by default the config as the run saved it. Raises
    ValueError for files that diffusion_train did not write, weights of another network and targets that are not
    allowed, and if the run needs a base model that is missing or has changed.
    """
    weights, description = load_weights(weights_file(run))
    cfg = config.from_container(description["config"]) if cfg is None else cfg
    trained_size = description["config"]["data"].get("image_size")
    if (size := cfg.data.get("image_size")) != trained_size:
        raise ValueError(
            f"data.image_size={size}: must be {trained_size}, the size that the run was trained at; leave it out"
        )
    if is_adapted(cfg) or not starts_from_run(cfg):
        config.resolve_files(cfg)
    return restore(cfg, weights, description["shape"], device)


def restore(cfg: DictConfig, weights: Mapping[str, Tensor], shape: Sequence[int], device: str = "cpu") -> Pipeline:
    """Return the pipeline of a run's config with the trained `weights`, named as in weights.safetensors."""
    pipeline = assemble(cfg, build_network(cfg, weights), shape, device)
    model = trainable_modules(pipeline.network, pipeline.conditioner)
    load_exactly(model, weights, trainable_state(model))
    return pipeline


def assemble(cfg: DictConfig, network: nn.Module, shape: Sequence[int], device: str = "cpu") -> Pipeline:
    """Combine a network with the other parts of a run's config; `shape` is that of one sample."""
    return Pipeline(
        network=network.to(device).eval(),
        diffusion=config.build(cfg.diffusion),
        conditioner=build_conditioner(cfg).to(device).eval(),
        autoencoder=config.build(cfg.autoencoder).to(device).eval(),
        sampler=config.build(cfg.sampler),
        guidance=config.build(cfg.guidance),
        shape=tuple(shape),
    )


def starts_from_run(cfg: DictConfig) -> bool:
    """Whether `pretrained` is a diffusion_train run; the parts of other models load their weights themselves."""
    return bool(cfg.pretrained) and cfg.get("base_record", {}).get("kind", "run") == "run"


def is_adapted(cfg: DictConfig) -> bool:
    return not str(cfg.adapter._target_).endswith(".NoAdapter")


def reads(cfg: DictConfig, what: str) -> bool:
    """Whether the conditioner reads `what` (captions or images); it is not built.

    Classes of other packages may read both.
    """
    parts = [locate(node["_target_"]) for _, node in target_nodes(cfg.conditioner)]
    return any(
        getattr(part, f"reads_{what}", False) or not part.__module__.startswith("diffusion_train.") for part in parts
    )


def idle_guidance(cfg: DictConfig) -> list[config.Mistake]:
    """Return a mistake if guidance has no condition to guide to, so that it would change nothing."""
    scale = cfg.guidance.get("scale", 1.0)
    if scale == 1 or not str(cfg.conditioner._target_).endswith(".NoCondition"):
        return []
    problem = "has no effect, because the samples of this run have no condition (conditioner=none)"
    return [config.Mistake(f"guidance.scale={scale:g}", problem, "leave it out, or give guidance=none")]


def trigger_word(cfg: DictConfig) -> str:
    """The word that the captions of a run have for its subject; "" if there is none."""
    return str(cfg.get("data", {}).get("captions", {}).get("trigger", "") or "")


def without_trigger(cfg: DictConfig, prompts: Sequence[str], key: str) -> str | None:
    """Return a warning about the prompts of a setting `key` that lack the run's trigger word, or None."""
    word = trigger_word(cfg)
    missing = [prompt for prompt in prompts if prompt and word not in prompt]
    if not missing:
        return None
    return (
        f"{key}: {len(missing)} of {len(prompts)} prompts lack the trigger word {word!r}, for instance "
        f"{printable(missing[0])!r}; images of the run's subject need it"
    )


def grid_prompts(cfg: DictConfig) -> list[str]:
    """The prompts of the sample grids."""
    return list(cfg.callbacks.get("samples", {}).get("prompts", []))
