"""Train a model."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from diffusion_train.assembly import build_module, build_optimization, build_trainer, lightning
from diffusion_train.command.ending import fit, is_done
from diffusion_train.command.exit import Exit
from diffusion_train.command.messages import farewell, prompts, quiet
from diffusion_train.command.resuming import resume_from, same_base, same_diffusion, same_run
from diffusion_train.utils.launcher import first_process, num_started, processes_of_its_own

SUMMARY = "train a model"
EXAMPLE = "python train.py experiment=openmoji trainer.max_steps=500 run_dir=runs/short"

# Keys that the code below reads itself; every other key must belong to a part or be referred to by one.
READ = (
    "name",
    "seed",
    "run_dir",
    "resume",
    "pretrained",
    "base",
    "base_record",
    "condition",  # for networks that take conditions
    "condition_dropout",
    "data.encoded",
    "clip_norm",
    "channels_last",
    "compile",
    "report",
)
# Groups whose parts need neither weights nor, but for those named, data.
TRIED = ("data", "diffusion", "optimizer", "lr_schedule", "ema", "sampler", "guidance", "callbacks")
NEED_DATA = (
    "callbacks.*.extractor",
    "data.module",
    "data.module.dataset",
    "data.shards",
    "data.shards.*",
    "data.captions",
    "data.captions.source",
)
SIZES = ("batch_size", "micro_batch_size", "num_workers", "num_repeated_batches")
# Arguments that the code below gives to a part.
GIVEN = {
    "callbacks.checkpointing": ("description", "after_saving"),
    "data.module.arrangement.order": ("fingerprint", "num_samples"),
}


def run(cfg: Any) -> int:
    quiet()
    from diffusion_train import config
    from diffusion_train.config.resolve_data import resolve_data
    from diffusion_train.training.precision import resolve

    cfg.trainer.precision = resolve(str(cfg.trainer.precision), cfg.trainer.accelerator)
    config.check(cfg, read=READ, given=GIVEN)
    resolve_data(cfg)
    if is_fetched(cfg):
        config.raise_all(wrong_settings(cfg))  # not after gigabytes
    config.resolve_files(cfg)
    refuse(cfg)
    with claimed(Path(cfg.run_dir)), processes_of_its_own():
        return train(cfg)


def is_fetched(cfg: Any) -> bool:
    from diffusion_train.pretrained import origin

    return bool(cfg.get("pretrained")) and origin.kind(str(cfg.pretrained)) == "hub"


def wrong_settings(cfg: Any) -> list[Any]:
    """What parts say against their settings, as far as it takes neither data nor the model's files."""
    from pytorch_lightning.utilities.exceptions import MisconfigurationException

    from diffusion_train import config
    from diffusion_train.data.datamodule import wrong_sizes
    from diffusion_train.run_folder import reads

    arguments: dict[str, dict[str, object]] = {"callbacks.checkpointing": {"description": {}}}
    mistakes = list(config.dry_build(cfg, TRIED, NEED_DATA, arguments, (ValueError, MisconfigurationException)))
    for wrong in wrong_sizes(**{name: cfg.data[name] for name in SIZES if name in cfg.data}):
        mistakes += config.mistakes_of(ValueError(wrong), "data")
    mistakes += [
        config.Mistake(f"callbacks.samples.{name}={given}", "the conditioner reads no captions", f"give {none}")
        for name, none in (("prompts", "[]"), ("negative_prompt", "null"))
        if (given := cfg.callbacks.get("samples", {}).get(name)) and given != [""] and not reads(cfg, "captions")
    ]
    mistakes += config.attempt(lambda: build_optimization(cfg), "optimizer")
    mistakes += config.attempt(lambda: lightning(cfg, logger=False), "trainer")
    return mistakes


def refuse(cfg: Any) -> None:
    """Raises ConfigError with all that parts say against their settings, as far as it takes no data and no weights."""
    import torch

    from diffusion_train import config
    from diffusion_train.command.shapes import check_shapes

    mistakes = wrong_settings(cfg)
    try:
        with torch.device("meta"), suppress(NotImplementedError, RuntimeError):  # not all of others can be made so
            network, autoencoder = config.build(cfg.network), config.build(cfg.autoencoder)
            check_shapes(cfg, getattr(network, "factor", 1), autoencoder.latent_shape)
    except ValueError as error:
        mistakes += config.mistakes_of(error, "network")
    config.raise_all(mistakes)


def train(cfg: Any) -> int:
    import pytorch_lightning as pl
    import torch

    from diffusion_train import config
    from diffusion_train.command.shapes import check_shapes
    from diffusion_train.data.storage.base import StorageError
    from diffusion_train.training.precision import shorten_frozen

    run_dir = Path(cfg.run_dir)
    checkpoint = resume_from(run_dir, cfg.resume)
    same_base(cfg, checkpoint)
    same_diffusion(cfg, checkpoint)
    torch.set_float32_matmul_precision("high")
    datamodule = config.build(cfg.data.module)  # first, for what is wrong with the data is told before a model is made
    pl.seed_everything(cfg.seed, verbose=False)  # for the network's initial weights; training draws by key
    module = build_module(cfg)
    shorten_frozen(module.network, cfg.trainer.precision)
    check_shapes(cfg, getattr(module.network, "factor", 1), module.autoencoder.latent_shape)
    trainer = build_trainer(cfg, run_dir, checkpoint)
    refuse_launch(trainer.num_devices, trainer.num_nodes, getattr(trainer.strategy, "cluster_environment", None))
    if cfg.data.get("encoded") is not None:
        from diffusion_train.command.encode import use

        use(cfg, datamodule, module)
    datamodule.check(trainer.num_devices * trainer.num_nodes)
    same_run(trainer, module, datamodule, checkpoint)
    module.micro_batch_size = datamodule.micro_batch_size
    module.conditioner.to(trainer.strategy.root_device)  # which embeds the captions
    try:
        module.conditioner.warm_up(Captions(cfg, datamodule))
    except StorageError as error:
        raise ValueError(f"the captions of data.shards cannot be read: {error}") from error
    code = fit(cfg, trainer, module, datamodule, checkpoint)
    if code not in (Exit.DONE, Exit.STOPPED) or not trainer.is_global_zero:
        return code
    farewell(cfg, trainer, run_dir)
    if cfg.report and is_done(trainer):
        left = f"the run is done; its report is not: diffusion-train report run={run_dir}"
        if code == Exit.STOPPED:
            print(left, file=sys.stderr)
            return code
        from diffusion_train.command.report import write_at_end

        try:
            write_at_end(run_dir, cfg)
        except KeyboardInterrupt as signaled:
            signaled.add_note(left)
            raise
    return code


def refuse_launch(num_devices: int, num_nodes: int, environment: Any) -> None:
    """ConfigError where a launcher started other processes than are asked for: each might train the whole run.

    `environment` is what Lightning takes the launcher for.
    """
    from diffusion_train import config

    started, asked = num_started(), num_devices * num_nodes
    if started != asked and (started > 1 or "TORCHELASTIC_RUN_ID" in os.environ):
        problem = f"of {num_nodes} nodes and {num_devices} processes on each, but the launcher started {started} in all"
        remedy = "give trainer=ddp trainer.devices=<processes of a node> trainer.num_nodes=<nodes>"
        config.raise_all([config.Mistake("trainer", problem, remedy)])
    unseen = environment is None or not environment.creates_processes_externally
    if num_started(by_all=True) > 1 and unseen:
        problem = f"the launcher started {started} processes, which know nothing of each other"
        remedy = "srun must not be called from an interactive job; mpirun needs the package mpi4py; or use torchrun"
        config.raise_all([config.Mistake("trainer", problem, remedy)])


class Captions:
    """Those of the sample grids and of the data, which are read when they are asked for, and each time."""

    def __init__(self, cfg: Any, datamodule: Any) -> None:
        self.cfg, self.datamodule = cfg, datamodule

    def __iter__(self) -> Iterator[str]:
        samples = self.cfg.callbacks.get("samples", {})
        negative = [samples["negative_prompt"]] if samples.get("negative_prompt") else []
        return itertools.chain(prompts(self.cfg), negative, self.datamodule.captions())


@contextmanager
def claimed(run_dir: Path) -> Iterator[None]:
    """The run folder, which no other run may write to meanwhile. Raises ValueError if it cannot be had."""
    from diffusion_train.utils.lock import locked

    with locked(run_dir / ".lock", f"run_dir={run_dir}") if first_process() else nullcontext():
        yield
