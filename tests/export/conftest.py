from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_pipelines
import torch
from torch import nn

from diffusion_train import config
from diffusion_train.adapter.lora import lora_layers
from diffusion_train.assembly import build_conditioner, build_network
from diffusion_train.config.command_line.compose import Composer
from diffusion_train.config.folders import conf_folder
from diffusion_train.training.weights import save_weights, trainable_modules, trainable_state


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """name of a tiny pipeline -> its folder, made once."""
    folder = tmp_path_factory.mktemp("tiny")

    def make(name: str) -> Path:
        place = folder / name
        return place if place.is_dir() else tiny_pipelines.make(name, place)

    return make


@pytest.fixture(scope="session")
def make_run() -> Callable[..., Path]:
    """(run folder, overrides) -> a run folder as training leaves it: weights changed a little from the base's."""

    def make(run: Path, *overrides: str) -> Path:
        given = [*overrides, "data.shards=[x.tar]", "callbacks.samples.prompts=[red apple]", "logger=none"]
        cfg, mistakes = Composer("config", [conf_folder()]).config([*given, f"run_dir={run}"])
        assert not mistakes, mistakes
        del cfg.hydra
        config.resolve_files(cfg)
        model = trainable_modules(build_network(cfg), build_conditioner(cfg))
        disturb(model)
        facts = {"config": config.redact(cfg), "step": 1, "shape": [3, 64, 64]}
        config.save_config(cfg, run / "config.yaml")
        save_weights(run / "weights.safetensors", trainable_state(model), facts)
        return run

    return make


def disturb(network: nn.Module) -> None:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for layer in lora_layers(network).values():
            layer.lora_B["default"].weight.normal_(std=0.1, generator=generator)
        for parameter in network.parameters():
            if parameter.requires_grad:
                noise = torch.randn(parameter.shape, generator=generator)
                parameter += 0.02 * noise * parameter.abs().mean()
