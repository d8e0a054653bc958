"""Tiny pipelines, opened by diffusers and by us."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import hydra
import pytest
import tiny_pipelines

from diffusion_train.autoencoder.kl import KL
from diffusion_train.conditioner.base import Conditioner
from diffusion_train.conditioner.clip_text import CLIPText
from diffusion_train.conditioner.sdxl import SDXL
from diffusion_train.conditioner.text.text_conditioner import Text
from diffusion_train.diffusion.process import GaussianDiffusion
from diffusion_train.diffusion.time_sampler import Discrete
from diffusion_train.diffusion.weighting import Output
from diffusion_train.network.diffusers_unet import DiffusersUNet
from diffusion_train.pretrained import scheduler


@dataclass(frozen=True)
class Base:
    """Our parts of the pipeline in `folder`."""

    name: str
    folder: Path

    @cached_property
    def theirs(self) -> Any:
        import diffusers

        pipeline = diffusers.DiffusionPipeline.from_pretrained(self.folder, local_files_only=True)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    @cached_property
    def network(self) -> DiffusersUNet:
        return DiffusersUNet(self.folder).eval()

    @cached_property
    def autoencoder(self) -> KL:
        return KL(str(self.folder))

    @cached_property
    def conditioner(self) -> Conditioner:
        if self.name == "sdxl":
            return SDXL(str(self.folder))
        return Text(CLIPText(str(self.folder), subfolder="text_encoder", tokenizer_subfolder="tokenizer"))

    @cached_property
    def diffusion(self) -> GaussianDiffusion:
        nodes = self.nodes(self.folder / "scheduler" / "scheduler_config.json")
        parts = (nodes["diffusion.schedule"], nodes["diffusion.parameterization"])
        return GaussianDiffusion(*map(hydra.utils.instantiate, parts), Output(), Discrete())

    def nodes(self, file: Path) -> dict[str, Any]:
        return scheduler.nodes(file, str(self.folder))

    def scheduler(self, kind: Any = None, **settings: Any) -> Any:
        """The pipeline's own, or one of another kind, as diffusers exchanges them."""
        import diffusers

        folder = self.folder / "scheduler"
        own = getattr(diffusers, tiny_pipelines.SCHEDULERS[self.name]["_class_name"]).from_pretrained(folder)
        return own if kind is None else kind.from_config(own.config, **settings)

    def grid(self, scheduler: Any, folder: Path) -> Any:
        """Ours of the file that diffusers writes of `scheduler`."""
        scheduler.save_config(folder)
        return hydra.utils.instantiate(self.nodes(folder / "scheduler_config.json")["sampler.grid"])


@pytest.fixture(autouse=True)
def _private_cache(private_cache):
    """Every test here."""


@pytest.fixture(scope="module", params=tiny_pipelines.NAMES)
def base(request, tmp_path_factory):
    pytest.importorskip("diffusers")
    pytest.importorskip("transformers")
    name = request.param
    return Base(name, tiny_pipelines.make(name, tmp_path_factory.mktemp(name)))
