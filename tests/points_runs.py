"""A small real run, put together without configuration files: points, an MLP, Lightning."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from checkpoint_state import CONFIG
from pytorch_lightning.plugins import MixedPrecision
from torch import nn

from diffusion_train.adapter.none import NoAdapter
from diffusion_train.autoencoder.identity import Identity
from diffusion_train.callbacks.checkpointing import Checkpointing
from diffusion_train.callbacks.scalars import Scalars
from diffusion_train.conditioner.base import Conditioner
from diffusion_train.conditioner.none import NoCondition
from diffusion_train.data.base import Dataset
from diffusion_train.data.datamodule import DataModule
from diffusion_train.data.order.order import Order
from diffusion_train.data.order.order_spec import OrderSpec
from diffusion_train.data.points import PointsDataset
from diffusion_train.diffusion.parameterization import V
from diffusion_train.diffusion.process import GaussianDiffusion
from diffusion_train.diffusion.schedule.cosine import Cosine
from diffusion_train.diffusion.time_sampler import Uniform
from diffusion_train.diffusion.weighting import Output
from diffusion_train.logger.metrics_file import MetricsFile
from diffusion_train.network.mlp import MLP
from diffusion_train.training import ema, lr_schedule
from diffusion_train.training.checkpoint.checkpoint_file import AtomicCheckpointIO
from diffusion_train.training.module import DiffusionModule
from diffusion_train.training.optimizer import Optimization, adamw
from diffusion_train.training.precision import trainer_arguments


class Recorder(pl.Callback):
    """The losses and the keys of every step."""

    def __init__(self) -> None:
        self.losses: list[torch.Tensor] = []
        self.keys: list[list[str]] = []

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.losses.append(outputs["loss"].clone())
        self.keys.append(batch["key"])


def points_run(
    run_dir: Path,
    max_steps: int,
    *,
    callbacks: tuple[pl.Callback, ...] = (),
    before_saving: tuple[pl.Callback, ...] = (),
    resume: Path | None = None,
    micro_batch_size: int | None = None,
    num_workers: int = 0,
    precision: str = "32-true",
    num_samples: int = 40,
    every_n_steps: int = 1000,
    lr: float = 1e-3,
    seed: int = 0,
    batch_size: int = 12,
    dataset: Dataset | None = None,
    allow_mismatch: tuple[str, ...] = (),
    adapter: Callable[[nn.Module], nn.Module] | None = None,
    network: nn.Module | None = None,
    conditioner: Conditioner | None = None,
    condition_dropout: float = 0.0,
    conditioner_lr: float | None = None,
    accelerator: str = "cpu",
    strategy: str = "auto",
    optimizer: Callable[..., Any] = adamw,
    float16: bool = False,
) -> tuple[DiffusionModule, Recorder]:
    torch.manual_seed(seed)
    data = DataModule(
        dataset or PointsDataset("two_moons", num_samples, num_holdout=5),
        OrderSpec(functools.partial(Order, seed=seed)),
        batch_size=batch_size,
        num_workers=num_workers,
    )
    module = DiffusionModule(
        (adapter or NoAdapter())(network or MLP(in_channels=2, width=16, depth=2)),
        GaussianDiffusion(Cosine(), V(), Output(), Uniform()),
        conditioner or NoCondition(),
        Identity(),
        Optimization(functools.partial(optimizer, lr=lr), lr_schedule.Cosine(20, 2), conditioner_lr=conditioner_lr),
        ema.constant([0.3, 0.9]),
        condition_dropout,
        seed,
        micro_batch_size,
    )
    recorder, settings = Recorder(), trainer_arguments(precision)
    trainer = pl.Trainer(
        accelerator=accelerator,
        strategy=strategy,
        devices=1,
        max_steps=max_steps,
        max_epochs=-1,
        precision=None if float16 else settings["precision"],
        log_every_n_steps=1,
        callbacks=[
            Scalars(max_skipped_steps=3),
            recorder,
            *before_saving,
            Checkpointing(run_dir, every_n_steps, allow_mismatch=allow_mismatch, description={"config": CONFIG}),
            *callbacks,
        ],
        logger=MetricsFile(run_dir),
        plugins=[AtomicCheckpointIO(), *([MixedPrecision("16-mixed", "cpu")] if float16 else settings["plugins"])],
        use_distributed_sampler=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, data, ckpt_path=resume, weights_only=True)
    return module, recorder


@pytest.fixture
def run_points() -> Callable[..., tuple[DiffusionModule, Recorder]]:
    """(run_dir, max_steps, ...) -> the trained module and what was recorded on the way."""
    return points_run
