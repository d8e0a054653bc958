"""Train a model."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import partial
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from diffusion_train import config
from diffusion_train.assembly import grid_prompts, idle_guidance, reads, without_trigger
from diffusion_train.callbacks.bad_samples import TooManyBadSamples
from diffusion_train.callbacks.checkpointing import NotSaved
from diffusion_train.callbacks.scalars import NumericalError
from diffusion_train.callbacks.stop import GracefulStop
from diffusion_train.command.next_commands import after_training
from diffusion_train.config.checks.trainer_settings import trainer_mistakes
from diffusion_train.config.folders import own_settings
from diffusion_train.config.resolve_data import keep_choices, resolve_data
from diffusion_train.config.training_config import DRY_BUILT, SETTINGS
from diffusion_train.data.data_settings import DataSettings
from diffusion_train.data.storage.base import StorageError
from diffusion_train.data.synchronized_loader import StoppedOnAllRanks
from diffusion_train.page import plain
from diffusion_train.pretrained import origin
from diffusion_train.run_folder import RunFolder
from diffusion_train.training.checkpoint.checkpoint_file import read_facts
from diffusion_train.training.optimizer import Optimization
from diffusion_train.training.precision import resolve
from diffusion_train.training.rank_processes import take_over
from diffusion_train.training.resume import resume_hint
from diffusion_train.training_run import (
    TrainingRun,
    build_run,
    check_image_shapes,
    lightning_trainer,
)
from diffusion_train.utils.exit_code import DISK_ERRORS, Exit
from diffusion_train.utils.lock import locked
from diffusion_train.utils.process.interruption import Stopping, handlers_restored
from diffusion_train.utils.process.launcher import first_process
from diffusion_train.utils.process.process_group import own_process_group
from diffusion_train.utils.quiet import quiet_libraries
from diffusion_train.utils.ranges import fraction
from diffusion_train.utils.redact import redact_text
from diffusion_train.utils.text import argument

SUMMARY = "train a model"
EXAMPLE = "python train.py experiment=openmoji trainer.max_steps=500 run_dir=runs/short"


def run(cfg: DictConfig) -> int:
    """Train, or resume, the run in `cfg.run_dir`; return the exit code.

    Raises ValueError for mistakes in the settings.
    """
    quiet_libraries()
    validate(cfg)
    with claimed(cfg), own_process_group():
        torch.set_float32_matmul_precision("high")
        training = together(build_run(cfg))
        code = fit(training)
        if code in (Exit.DONE, Exit.STOPPED) and training.trainer.is_global_zero:
            report(training, code)
        return code


def validate(cfg: DictConfig, read: Collection[str] = SETTINGS) -> None:
    """Raises ConfigError with every mistake in the settings that can be found without building the whole run.

    Also sets the sizes that are null and what a resumed run has chosen, and finds the files of the pretrained model.
    `read` are the keys that the command reads itself.
    """
    config.check(cfg, read=read)
    keep_choices(cfg)
    cfg.trainer.precision = resolve(str(cfg.trainer.precision), cfg.trainer.accelerator)
    resolve_data(cfg)
    mistakes = list(_wrong_settings(cfg))
    if cfg.pretrained and origin.kind(str(cfg.pretrained)) == "hub":
        config.raise_all(mistakes)  # before gigabytes are fetched
    config.resolve_files(cfg)
    config.raise_all([*mistakes, *_wrong_shapes(cfg)])
    if first_process() and (warning := without_trigger(cfg, grid_prompts(cfg), "callbacks.samples.prompts")):
        warnings.warn(warning, stacklevel=1)


def _wrong_settings(cfg: DictConfig) -> Iterator[config.Mistake]:
    """Yield the mistakes in settings that parts can find without data and without the model's files."""
    refusals = (ValueError, MisconfigurationException)
    if not 0 <= cfg.seed < 2**32:
        yield config.Mistake(f"seed={cfg.seed}", "must be from 0 to 4294967295", "give the same number to repeat a run")
    yield from config.attempt(lambda: fraction(condition_dropout=cfg.condition_dropout), "condition_dropout")
    yield from config.dry_build(cfg, ["data"])
    yield from config.attempt(lambda: _data_settings(cfg).check(), "data")
    yield from config.dry_build(cfg, DRY_BUILT, refusals)
    samples = cfg.callbacks.get("samples", {})
    for name, none in (("prompts", "[]"), ("negative_prompt", "null")):
        if (value := samples.get(name)) and value != [""] and not reads(cfg, "captions"):
            key = f"callbacks.samples.{name}={value}"
            yield config.Mistake(key, "the conditioner reads no captions", f"give {none}")
    yield from idle_guidance(cfg) or _untrained_guidance(cfg)
    weights = [{"params": [torch.zeros(1, requires_grad=True)]}]
    yield from config.attempt(lambda: Optimization(torch.optim.SGD, float, cfg.clip_norm), "clip_norm")
    yield from config.attempt(lambda: config.build(cfg.optimizer)(weights), "optimizer")
    wrong = trainer_mistakes(cfg)
    yield from wrong
    if not any(mistake.where.startswith("trainer.strategy") for mistake in wrong):
        yield from config.attempt(lambda: lightning_trainer(cfg, logger=False), "trainer")


def _untrained_guidance(cfg: DictConfig) -> Iterator[config.Mistake]:
    """Yield a mistake if guidance would move away from a prediction that a run from scratch never trains."""
    scale = cfg.guidance.get("scale", 1.0)
    if scale > 1 and not (cfg.condition_dropout or cfg.pretrained):
        problem = 'must be at most 1 with condition_dropout=0, which never trains the prediction for "no condition"'
        yield config.Mistake(f"guidance.scale={scale:g}", problem, "give guidance=none, or condition_dropout=0.1")


def _data_settings(cfg: DictConfig) -> DataSettings:
    """Build the data settings, with None for parts that cannot be built, so that the other settings can be checked."""
    parts = {str(name): node for name, node in cfg.data.items() if OmegaConf.is_dict(node)}
    wrong = {name: None for name, node in parts.items() if config.attempt(partial(config.build, node), name)}
    settings: DataSettings = config.build(OmegaConf.merge(cfg.data, wrong))
    return settings


def _wrong_shapes(cfg: DictConfig) -> Iterator[config.Mistake]:
    """Yield a mistake if the network or the autoencoder does not accept the image shapes.

    Both are built without weights.
    """
    try:
        with torch.device("meta"), suppress(NotImplementedError, RuntimeError):  # some parts cannot be built on "meta"
            network, autoencoder = config.build(cfg.network), config.build(cfg.autoencoder)
            check_image_shapes(_data_settings(cfg), getattr(network, "factor", 1), autoencoder.latent_shape)
    except ValueError as error:
        yield from config.mistakes_of(error, "network")


def claimed(cfg: DictConfig) -> AbstractContextManager[None]:
    """Lock the run folder, so that no other run writes to it. Raises ValueError if it is in use."""
    if not first_process(cfg.trainer.get("num_nodes", 1)):
        return nullcontext()
    return locked(Path(cfg.run_dir) / ".lock", f"run_dir={cfg.run_dir}")


def together(run: TrainingRun) -> TrainingRun:
    """Start the run's other processes, and return the run that all of them agree on.

    Raises ConfigError in all of them if they differ.
    """
    take_over(run.trainer)
    try:
        return run.agreed()
    except KeyboardInterrupt as signaled:
        signaled.add_note(resume_hint(run.run_dir, run.cfg.resume))
        raise


def fit(run: TrainingRun) -> Exit:
    """Train, and return the exit code. If training ends early, print why and how to resume."""
    hint = partial(resume_hint, run.run_dir, run.cfg.resume)
    first_step = read_facts(run.checkpoint)["step"] if run.checkpoint else 0
    try:
        with handlers_restored():
            run.trainer.fit(run.module, run.datamodule, ckpt_path=run.checkpoint, weights_only=True)
    except Stopping as stopping:
        if run.trainer.is_global_zero and str(stopping):
            print(f"{stopping}\n{hint()}", file=sys.stderr)
        return _common(run, Exit.STOPPED)
    except NumericalError as error:
        print(error, file=sys.stderr)
        return _common(run, Exit.NUMERICAL)
    except (StorageError, TooManyBadSamples) as error:
        together = isinstance(error, (NotSaved, StoppedOnAllRanks, TooManyBadSamples))
        if run.trainer.is_global_zero or not together:
            reason = str(error).strip().splitlines()[-1]  # a worker process sends its whole traceback
            what = "" if isinstance(error, NotSaved) else "data: "
            print(f"{what}{redact_text(reason)}\n{hint()}", file=sys.stderr)
        return _common(run, Exit.STORAGE) if together else Exit.STORAGE
    except OSError as error:
        if error.errno in DISK_ERRORS:
            error.filename = error.filename or str(run.run_dir)
        error.add_note(hint())
        raise
    except SystemExit as error:  # which Lightning raises for a KeyboardInterrupt
        if not isinstance(error.__context__, KeyboardInterrupt):
            raise
        if run.trainer.is_global_zero:
            error.__context__.add_note(hint())
        raise error.__context__ from None
    except Exception as error:
        if run.trainer.global_step <= first_step:
            raise  # a ValueError is reported as a mistake in the settings, without a traceback
        raise RuntimeError(f"training ended at step {run.trainer.global_step}: {error}\n{hint()}") from error
    return _common(run, Exit.DONE if run.is_done and not _stop_requested(run) else Exit.STOPPED)


def _stop_requested(run: TrainingRun) -> bool:
    """Whether a signal has asked the run to stop, at any time."""
    return any(callback.asked for callback in run.trainer.callbacks if isinstance(callback, GracefulStop))  # type: ignore[attr-defined]


def _common(run: TrainingRun, code: Exit) -> Exit:
    """Return the exit code of this process if all processes end together: `code` in the first one, 0 in the others.

    Lightning, torchrun and srun kill the first process, even while it writes, once another one exits with a code
    other than 0.
    """
    return code if run.trainer.is_global_zero else Exit.DONE


def report(run: TrainingRun, code: Exit) -> None:
    """Print where the files are and what to run next.

    If the run is done and its config asks for it, write the report.
    """
    farewell(run)
    if not (run.cfg.report and run.is_done):
        return
    left = f"the run is done, but its report is not written; run: diffusion-train report {argument('run', run.run_dir)}"
    if code == Exit.STOPPED:
        print(left, file=sys.stderr)
        return
    from diffusion_train.report.brand_report import write_report

    try:
        write_report(run.run_dir, run.cfg, own_settings("report"))
    except KeyboardInterrupt as signaled:
        signaled.add_note(left)
        raise


def farewell(run: TrainingRun) -> None:
    """Print the files of the run and a command that samples from it, if it has saved weights."""
    folder = RunFolder(run.run_dir)
    if folder.weights.exists():
        print(plain("diffusion_train.command", "farewell.txt", run=run, folder=folder), end="")
        print("\n".join(after_training(run.cfg, folder.path)))
