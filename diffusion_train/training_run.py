"""A training run: data, module and Trainer, built from a config and checked together before the first step."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from omegaconf import DictConfig
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from diffusion_train import config
from diffusion_train.assembly import build_conditioner, build_network, grid_prompts
from diffusion_train.callbacks.checkpointing import check_same_run
from diffusion_train.callbacks.run_record import RunRecord
from diffusion_train.choices import choose
from diffusion_train.config.checks.signatures import default
from diffusion_train.data.base import TrainingData
from diffusion_train.data.data_settings import DataSettings, ImageData, ShardData
from diffusion_train.data.datamodule import DataModule
from diffusion_train.data.dataset import ShardDataset
from diffusion_train.data.order.shape_check import LatentShape, check_shapes
from diffusion_train.data.selection import strict_error
from diffusion_train.data.storage.base import StorageError
from diffusion_train.encode.precomputed_data import use_precomputed
from diffusion_train.logger.surviving import surviving
from diffusion_train.network.layout import set_memory_format
from diffusion_train.rank_agreement import agree, facts
from diffusion_train.training.checkpoint.checkpoint_file import AtomicCheckpointIO, read_facts
from diffusion_train.training.module import DiffusionModule
from diffusion_train.training.optimizer import Optimization
from diffusion_train.training.precision import (
    AUTO,
    check_device,
    check_trained,
    shorten_frozen,
    trainer_arguments,
)
from diffusion_train.training.resume import changed_settings, check_same_base, check_same_settings, find_checkpoint
from diffusion_train.utils.process.launcher import first_process, num_started
from diffusion_train.utils.ranges import at_least

# What to give instead if Lightning rejects a setting of `trainer`.
_REMEDIES = {
    "accelerator": "give auto, or cpu",
    "devices": "give a number of at least 1, or auto",
    "max_time": "give days:hours:minutes:seconds, for instance 00:07:55:00",
    "strategy": "give auto, or ddp",
}


@dataclass(frozen=True)
class TrainingRun:
    """A training run whose parts fit together.

    `checkpoint` is the file that it resumes from, None for a fresh start; only the first rank knows it before `agreed`.
    """

    cfg: DictConfig
    datamodule: TrainingData
    module: DiffusionModule
    trainer: pl.Trainer
    checkpoint: Path | None

    @property
    def run_dir(self) -> Path:
        return Path(self.cfg.run_dir)

    @property
    def is_done(self) -> bool:
        return bool(self.trainer.global_step >= self.trainer.max_steps)

    def agreed(self) -> TrainingRun:
        """Return this run with the checkpoint of the first rank. Raises ConfigError on all ranks if they differ."""
        shared = facts(self.cfg, self.datamodule.identity)
        return replace(self, checkpoint=agree(self.trainer, shared, self.checkpoint))


def build_run(cfg: DictConfig) -> TrainingRun:
    """Build a training run. Raises ValueError if its data, weights, launcher and checkpoint do not fit together."""
    chooses = first_process(cfg.trainer.get("num_nodes", 1))  # the other ranks follow the first
    checkpoint = find_checkpoint(Path(cfg.run_dir), cfg.resume) if chooses else None
    changed = {} if checkpoint is None else _check_same_config(cfg, checkpoint)
    data = config.build(cfg.data)
    datamodule = data.datamodule()  # first, so that mistakes in the data are reported before a model is built
    pl.seed_everything(cfg.seed, verbose=False)  # for the network's initial weights; training draws by key
    module = build_module(cfg, datamodule.micro_batch_size)
    if AUTO in (cfg.trainer.precision, cfg.compile):
        choose(cfg, module, datamodule, lightning_trainer(cfg, logger=False))
    check_trained(module.network, cfg.trainer.precision)
    shorten_frozen(module.network, cfg.trainer.precision)
    check_image_shapes(data, getattr(module.network, "factor", 1), module.autoencoder.latent_shape)
    check_captions(cfg, data, datamodule, module.conditioner.caption_check())
    trainer = build_trainer(cfg, checkpoint, changed)
    check_launch(trainer.num_devices, trainer.num_nodes, getattr(trainer.strategy, "cluster_environment", None))
    if cfg.data.get("encoded") is not None:
        datamodule = use_precomputed(cfg.data.encoded, datamodule, module.conditioner, module.autoencoder)
    datamodule.check(trainer.num_devices * trainer.num_nodes)
    if checkpoint is not None:
        check_same_run(checkpoint, trainer, module, datamodule)
    module.conditioner.to(trainer.strategy.root_device)  # which embeds the captions
    try:
        module.conditioner.warm_up(RunCaptions(cfg, datamodule))
    except StorageError as error:
        raise ValueError(f"the captions of data.shards cannot be read: {error}") from error
    return TrainingRun(cfg, datamodule, module, trainer, checkpoint)


def _check_same_config(cfg: DictConfig, checkpoint: Path) -> dict[str, tuple[Any, Any]]:
    """Return the settings that differ from the checkpoint's, with both values.

    Raises ValueError if the checkpoint has another base model, or other settings that decide how weights move. It is
    called before any weights are read.
    """
    before = read_facts(checkpoint)["config"]
    check_same_base(
        checkpoint,
        before.get("base_record", {}).get("sha256"),
        cfg.get("base_record", {}).get("sha256"),
        cfg.pretrained,
    )
    then, now = (config.settings(config.redact(one), "") for one in (before, cfg))
    changed = changed_settings(then, now, default)
    check_same_settings(changed, cfg.allow_mismatch)
    return changed


def build_module(cfg: DictConfig, micro_batch_size: int | None = None) -> DiffusionModule:
    """Build the Lightning module.

    `micro_batch_size` is the number of samples in a forward pass; None: the whole batch.
    """
    network = build_network(cfg)
    set_memory_format(network, channels_last=cfg.channels_last, compile=cfg.compile is True)  # auto: `choose` compiles
    return DiffusionModule(
        network=network,
        diffusion=config.build(cfg.diffusion),
        conditioner=build_conditioner(cfg),
        autoencoder=config.build(cfg.autoencoder),
        optimization=build_optimization(cfg),
        ema=config.build(cfg.ema),
        condition_dropout=cfg.condition_dropout,
        seed=cfg.seed,
        micro_batch_size=micro_batch_size,
    )


def build_optimization(cfg: DictConfig) -> Optimization:
    optimizer, lr_schedule = config.build(cfg.optimizer), config.build(cfg.lr_schedule)
    return Optimization(optimizer, lr_schedule, cfg.clip_norm, cfg.adapter.get("text_encoder_lr"))


def build_trainer(
    cfg: DictConfig, checkpoint: Path | None, changed: Mapping[str, tuple[Any, Any]] | None = None
) -> pl.Trainer:
    """Build the Trainer with the config's callbacks and loggers; a resumed run continues its W&B run.

    `changed` are the settings that differ from the checkpoint's, for the record.
    """
    plain, run_dir = config.redact(cfg), Path(cfg.run_dir)
    record = RunRecord(run_dir, plain, checkpoint, changed or {})
    arguments: dict[str, dict[str, Any]] = {
        "checkpointing": {"description": {"config": plain}, "after_saving": record.write_data}
    }
    if checkpoint and "wandb" in cfg.logger and not cfg.logger.wandb.id:
        arguments["wandb"] = {"id": read_facts(checkpoint)["wandb_id"]}
    callbacks = [config.build(node, **arguments.get(name, {})) for name, node in cfg.callbacks.items()]
    precision = trainer_arguments(cfg.trainer.precision)
    return lightning_trainer(
        cfg,
        callbacks=[record, *callbacks],
        logger=[surviving(config.build(node, **arguments.get(name, {}))) for name, node in cfg.logger.items()],
        precision=precision["precision"],
        plugins=[AtomicCheckpointIO(), *precision["plugins"]],
        default_root_dir=str(run_dir),
    )


def lightning_trainer(cfg: DictConfig, **arguments: Any) -> pl.Trainer:
    """Build Lightning's Trainer. Raises ValueError for settings of `trainer` that Lightning rejects on this machine."""
    counts = {f"trainer.{name}": cfg.trainer.get(name) for name in ("max_steps", "log_every_n_steps")}
    at_least(1, **{name: count for name, count in counts.items() if count is not None})
    if cfg.trainer.get("precision") == AUTO:  # chosen later, with the network
        arguments = {"precision": "32-true", **arguments}
    try:
        trainer: pl.Trainer = config.build(
            cfg.trainer,
            **arguments,
            max_epochs=-1,
            use_distributed_sampler=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
    except (MisconfigurationException, ModuleNotFoundError, TypeError, ValueError) as error:
        raise ValueError(_with_setting(cfg.trainer, str(error).partition("\n")[0])) from error
    check_device(str(cfg.trainer.get("precision")), trainer.strategy.root_device.type)
    return trainer


def _with_setting(settings: DictConfig, problem: str) -> str:
    """Return Lightning's message with the setting that it is about: one that it names, or quotes, or that is set."""
    values = {name: str(settings.get(name)) for name in _REMEDIES}
    by_name = [name for name in values if f"{name}=" in problem or f"`{name}`" in problem]
    by_value = [name for name, value in values.items() if f" {value} " in problem.replace("'", " ")]
    chosen = [name for name, value in values.items() if value not in ("auto", "None")]
    setting = next((names[0] for names in (by_name, by_value, chosen) if names), None)
    if setting is None:
        return f"trainer: {problem}"
    return f"trainer.{setting}={values[setting]}: {problem.rstrip('!.')}; {_REMEDIES[setting]}"


def check_image_shapes(data: DataSettings, factor: int, latent_shape: LatentShape) -> None:
    """Raises ValueError for images of a shape that the network or the autoencoder does not accept."""
    if isinstance(data, ImageData):
        check_shapes(data.image_size, data.image_sizes(), factor, latent_shape)


def check_captions(
    cfg: DictConfig, data: DataSettings, datamodule: TrainingData, check: Callable[[str], object] | None
) -> None:
    """Let `check` decide which captions the model can use. A sample with another one is a bad sample from now on.

    Raises ValueError for prompts of the sample grids that are unusable, and DataError with every sample whose caption
    is, if faults are strict and the captions can be listed.
    """
    if check is None or not isinstance(data, ImageData):
        return
    data.captions.check = check
    for prompt in grid_prompts(cfg):
        try:
            check(prompt)
        except ValueError as error:
            raise ValueError(f"callbacks.samples.prompts: {error}") from None
    if isinstance(data, ShardData) and data.faults == "strict" and isinstance(datamodule, DataModule):
        parts = [part for part in (datamodule.dataset, datamodule.holdout) if isinstance(part, ShardDataset)]
        if problems := [problem for part in parts for problem in part.unusable_captions(check)]:
            raise strict_error(problems)


def check_launch(num_devices: int, num_nodes: int, environment: Any) -> None:
    """Raises ConfigError if the launcher did not start the processes that `trainer` expects: each might train alone.

    `environment` is the ClusterEnvironment that Lightning detects, or None.
    """
    started, asked = num_started(), num_devices * num_nodes
    if started != asked and (started > 1 or "TORCHELASTIC_RUN_ID" in os.environ):
        problem = (
            f"must have {num_nodes} nodes x {num_devices} devices = {asked} processes, but the launcher started "
            f"{started}"
        )
        remedy = "give trainer=ddp trainer.devices=<processes of a node> trainer.num_nodes=<nodes>"
        config.raise_all([config.Mistake("trainer", problem, remedy)])
    unseen = environment is None or not environment.creates_processes_externally
    if num_started(by_all=True) > 1 and unseen:
        problem = f"the launcher started {started} processes that cannot find each other"
        remedy = "srun must not be called from an interactive job; mpirun needs the package mpi4py; or use torchrun"
        config.raise_all([config.Mistake("trainer", problem, remedy)])


class RunCaptions:
    """The captions of the sample grids and of the data. Each iteration reads them again."""

    def __init__(self, cfg: DictConfig, datamodule: TrainingData) -> None:
        self.cfg, self.datamodule = cfg, datamodule

    def __iter__(self) -> Iterator[str]:
        samples = self.cfg.callbacks.get("samples", {})
        negative = [samples["negative_prompt"]] if samples.get("negative_prompt") else []
        return itertools.chain(grid_prompts(self.cfg), negative, self.datamodule.captions())
