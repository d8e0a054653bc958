"""Where the parts of a config meet: its network, its conditioner, and the pipeline that samples from a run."""

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


def build_network(cfg: DictConfig, weights: Mapping[str, Tensor] | None = None) -> nn.Module:
    """The network of a config, with the weights of the run that `pretrained` names, if it names one; then the adapter.

    An adapter of that run is merged into them. Where `weights`, which the caller loads, are all of the network's, that
    run is not looked for. Raises ValueError if there are no weights or they are of another network, or an adapter would
    stand beside weights that no file holds.
    """
    network = config.build(cfg.network)
    if starts_from_run(cfg) and (weights is None or weights.keys() != network.state_dict().keys()):
        load_exactly(network, _whole_weights(Path(cfg.pretrained)), network.state_dict())
    adapted: nn.Module = config.build(cfg.adapter)(network)
    from_folder = isinstance(cfg.network.get("model"), str)
    if not (cfg.pretrained or from_folder or all(parameter.requires_grad for parameter in adapted.parameters())):
        raise ValueError(
            "pretrained=null, but the adapter leaves weights as they are, so that they would be random ones and be "
            "saved nowhere: give pretrained=<the model to train on>, or adapter=none"
        )
    return adapted


def _whole_weights(run: Path) -> dict[str, Tensor]:
    """All weights of a run's network; those of an adapter are merged into what it was trained on.

    That is held to the hash in the run's own record. Raises ValueError where it is not there or has changed.
    """
    weights, description = load_weights(weights_file(run, "pretrained"))
    cfg = config.from_container(description["config"])
    if not is_adapted(cfg):
        return weights
    try:
        config.resolve_files(cfg)
    except ValueError as error:
        raise ValueError(
            f"pretrained={run}: an adapter, and what it was trained on is not as it was: {error}"
        ) from error
    network = build_network(cfg, weights)
    load_exactly(network, weights, trainable_state(network))
    return merge(network).state_dict()


def build_conditioner(cfg: DictConfig) -> Conditioner:
    """The conditioner of a config, adapted if the config says so. Raises ValueError if it cannot be adapted."""
    conditioner: Conditioner = config.build(cfg.conditioner)
    if cfg.adapter.get("text_encoder"):
        conditioner.adapt(config.build(cfg.adapter).on_text_encoder)
    return conditioner


def build_token_counter(cfg: DictConfig) -> Tokens | None:
    """Counts tokens with the conditioner's text encoder; None where there is no conditioner."""
    if cfg.conditioner["_target_"].endswith(".NoCondition"):
        return None
    encoder: Any = getattr(config.build(cfg.conditioner), "encoder", None)
    if not hasattr(encoder, "num_tokens"):
        raise ValueError(
            "conditioner: this one has no text encoder that counts tokens; give packaged_text, clip_text or t5"
        )
    return Tokens(type(encoder).__name__, encoder.max_length, encoder.num_tokens)


def load_pipeline(run: Path, cfg: DictConfig | None = None, device: str = "cpu") -> Pipeline:
    """The model of a run as it is sampled from: with the weights of its first EMA.

    `cfg` is the run's config with other settings of sampling, by default as the run has it. Raises ValueError for
    files that are not ours, weights of another network, targets that are not allowed, and where what the run was trained
    on is needed, and is not there or has changed.
    """
    weights, description = load_weights(weights_file(run))
    cfg = config.from_container(description["config"]) if cfg is None else cfg
    trained_size = description["config"]["data"].get("image_size")
    if (size := cfg.data.get("image_size")) != trained_size:
        raise ValueError(
            f"data.image_size={size}: a run draws at the size it was trained at, {trained_size}; leave it out"
        )
    if is_adapted(cfg) or not starts_from_run(cfg):
        config.resolve_files(cfg)
    return restore(cfg, weights, description["shape"], device)


def restore(cfg: DictConfig, weights: Mapping[str, Tensor], shape: Sequence[int], device: str = "cpu") -> Pipeline:
    """The pipeline of a run's config with the trained `weights`, by their names in weights.safetensors."""
    pipeline = assemble(cfg, build_network(cfg, weights), shape, device)
    model = trainable_modules(pipeline.network, pipeline.conditioner)
    load_exactly(model, weights, trainable_state(model))
    return pipeline


def assemble(cfg: DictConfig, network: nn.Module, shape: Sequence[int], device: str = "cpu") -> Pipeline:
    """A network, whatever weights it holds, with the other parts of a run's config; `shape` is one sample's."""
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
    """Whether `pretrained` is a run of ours, and not a model of others, whose parts load their own weights."""
    return bool(cfg.pretrained) and cfg.get("base_record", {}).get("kind", "run") == "run"


def is_adapted(cfg: DictConfig) -> bool:
    return not str(cfg.adapter._target_).endswith(".NoAdapter")


def reads(cfg: DictConfig, what: str) -> bool:
    """Whether the conditioner of a config reads `what`, captions or images, without building it; a user's own may."""
    parts = [locate(node["_target_"]) for _, node in target_nodes(cfg.conditioner)]
    return any(
        getattr(part, f"reads_{what}", True) or not part.__module__.startswith("diffusion_train.") for part in parts
    )


def grid_prompts(cfg: DictConfig) -> list[str]:
    """The prompts of the sample grids."""
    return list(cfg.callbacks.get("samples", {}).get("prompts", []))
