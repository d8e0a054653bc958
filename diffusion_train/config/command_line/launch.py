"""Make a command's config from its arguments and run it: a first pass finds all mistakes, then Hydra runs as usual."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import hydra
from hydra import initialize_config_dir
from hydra._internal.callbacks import Callbacks
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import OverrideType
from hydra.core.utils import run_job
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from diffusion_train.config import resolvers
from diffusion_train.config.base_model import named, sets_part
from diffusion_train.config.command_line.arguments import first_word, jobs, parse, sweep_mistakes
from diffusion_train.config.command_line.call import Call
from diffusion_train.config.command_line.compose import Composer
from diffusion_train.config.command_line.hydra_output import show, without_secrets
from diffusion_train.config.mistakes import ConfigError, Mistake, raise_all, unwritable
from diffusion_train.config.run import compose_run
from diffusion_train.config.secrets import escape
from diffusion_train.config.targets import allow
from diffusion_train.utils.process.launcher import num_started

Body = Callable[[DictConfig], int]

# Hydra writes no files of its own and leaves logging and the working directory alone.
_QUIET = ("hydra.output_subdir=null", "hydra/job_logging=none", "hydra/hydra_logging=none", "hydra.job.chdir=false")
_IN_RUN_DIR = (
    "hydra.run.dir=${run_dir}",
    "hydra.sweep.dir='${home:${run_dir}}'",
    "hydra.sweep.subdir=${hydra.job.num}",
)


class _Ended(BaseException):
    """Raised to start no further job of a sweep."""


def launch(call: Call, body: Body, ends: Collection[int] = (), run_keys: Collection[str] | None = None) -> int:
    """Run `body` on the config if it has no mistakes; return the exit code, of a sweep the highest of all jobs.

    `run_keys` are the keys that the command reads of the config of a finished run, with everything below them. A job
    whose code is in `ends` ends the sweep. Raises ConfigError with every mistake.
    """
    resolvers.install()
    allow(call.allowed)
    if "run" in call.settings:
        return _on_run(call, body, run_keys)
    cfg = first_pass(call)
    if call.flags.cfg:
        show(cfg, call.flags)  # Hydra would print it without the pretrained model's parts, and with its secrets
        return 0
    if not call.shows_only:
        raise_all(_run_dir_mistakes(cfg))
    return _start(call, cfg, body, ends)


def _without_hydra(cfg: DictConfig) -> DictConfig:
    with open_dict(cfg):
        cfg.pop("hydra")
    return cfg


def first_pass(call: Call) -> DictConfig:
    """Return the config with its `hydra` node, for a sweep that of its last job.

    Raises ConfigError with every mistake.
    """
    composer = _composer(call)
    mistakes = [*call.mistakes, *([] if call.flags.multirun else sweep_mistakes(call.overrides))]
    if call.flags.multirun and "run_dir" not in call.settings:
        mistakes.append(Mistake("--multirun", "only works for commands with a run_dir"))
    for job in jobs(call.overrides):
        cfg, found = composer.config(job)
        mistakes += found
    if "allow_targets" in cfg:
        mistakes.append(Mistake("allow_targets", "cannot be set in a config file", "give it on the command line only"))
    raise_all(_without_missing(mistakes) if call.shows_only else mistakes)
    return cfg


def _composer(call: Call) -> Composer:
    return Composer(call.config_name, call.folders, _hydra_settings(call))


def _hydra_settings(call: Call) -> tuple[str, ...]:
    return (*_QUIET, *_IN_RUN_DIR) if "run_dir" in call.settings else (*_QUIET, "hydra.run.dir=.")


def _without_missing(mistakes: Sequence[Mistake]) -> list[Mistake]:
    """Leave out mistakes of missing values: a config can be printed without them."""
    return [mistake for mistake in mistakes if mistake.problem != "must be given"]


def _run_dir_mistakes(cfg: DictConfig) -> list[Mistake]:
    raw: Any = OmegaConf.to_container(cfg, resolve=False)
    timed = "${now:" in str(raw.get("run_dir")) and raw["hydra"]["run"]["dir"] == "${run_dir}"
    if timed and num_started() > 1:
        problem = "every process would make its own folder, named by its start time"
        return [Mistake("run_dir", problem, "give run_dir=<folder> when torchrun or srun starts the processes")]
    return list(unwritable("run_dir", Path(str(cfg.hydra.run.dir))))


def _start(call: Call, first: DictConfig, body: Body, ends: Collection[int]) -> int:
    """Run the jobs. `first` is the config of a single run; each job of a sweep composes its own."""
    codes: list[int] = []
    original, head = list(sys.argv), _program(call)
    flags = [flag for flag in call.flag_arguments if flag not in ("-m", "--multirun")]
    trust = [f"allow_targets=[{','.join(call.allowed)}]"] if call.allowed else []

    def job(cfg: DictConfig) -> None:
        # Hydra registers its own resolvers again, and the jobs of a sweep may run in other processes.
        resolvers.install()
        allow(call.allowed)
        arguments = list(call.overrides)
        if call.flags.multirun:
            # Hydra's config lacks the parts of a pretrained model, which only the Composer adds.
            arguments = list(HydraConfig.get().overrides.task)
            composed, mistakes = _composer(call).config(arguments)
            raise_all(mistakes)
            cfg = _without_hydra(composed)
        # Lightning starts further processes with these arguments: this job alone, not the whole sweep.
        sys.argv = [*head, *flags, *trust, *arguments]
        folder = _set_run_dir(cfg)
        codes.append(int(body(cfg)))
        with suppress(OSError):
            if not folder.samefile(os.curdir):
                folder.rmdir()  # only if nothing was written
        if codes[-1] in ends:
            raise _Ended

    try:
        with suppress(_Ended):
            if call.flags.multirun or call.shows_only:
                overrides = map(_forced, call.overrides) if named(first) else call.overrides
                sys.argv = [original[0], *call.flag_arguments, *_hydra_settings(call), *overrides]
                with without_secrets(call.shows_only):
                    hydra.main(version_base="1.3", config_path=str(call.folders[0]), config_name=call.config_name)(
                        job
                    )()
            else:
                _run_job(first, job, call.folders[0])
    finally:
        sys.argv = original
    return max(codes, default=0)


def _run_job(cfg: DictConfig, job: Callable[[DictConfig], None], folder: Path) -> None:
    """Do what Hydra does with a config that it has composed for a single run."""
    cfg.hydra.mode = RunMode.RUN
    with initialize_config_dir(str(folder), version_base="1.3"):
        context = HydraContext(GlobalHydra.instance().config_loader(), Callbacks(cfg))
        context.callbacks.on_run_start(config=cfg, config_name=cfg.hydra.job.config_name)
        done = run_job(job, cfg, "hydra.run.dir", None, context)
        context.callbacks.on_run_end(config=cfg, config_name=cfg.hydra.job.config_name, job_return=done)
    _ = done.return_value  # raises what the job raised


def _forced(argument: str) -> str:
    """Add ++ to values of parts: they may be the pretrained model's, which Hydra does not know.

    The first pass checks them.
    """
    (override,) = parse([argument])[0]
    return f"++{argument}" if override.type == OverrideType.CHANGE and sets_part(override) else argument


def _program(call: Call) -> list[str]:
    """Return the words before the arguments: `train.py`, or `diffusion-train train`."""
    count = len(sys.argv) - len(call.arguments)
    return sys.argv[:count] if tuple(sys.argv[count:]) == call.arguments else sys.argv[:1]


def _set_run_dir(cfg: DictConfig) -> Path:
    """Set `run_dir` to the folder that Hydra made; processes started by Lightning get the same one."""
    node: Any = HydraConfig.get()
    folder = str(node.runtime.output_dir)
    with read_write(node), open_dict(node):
        node.run.dir = folder
    if "run_dir" in cfg:
        with read_write(cfg), open_dict(cfg):
            cfg.run_dir = folder
    return Path(folder)


def _on_run(call: Call, body: Body, run_keys: Collection[str] | None) -> int:
    """Run `body` on the config of a run, with the command's own settings in a node named after the command."""
    own_arguments = [a for a in call.overrides if first_word(a) in call.settings]
    run_arguments = [a for a in call.overrides if first_word(a) not in call.settings]
    mistakes = [Mistake("--multirun", "only works for training runs")] if call.flags.multirun else []
    mistakes += sweep_mistakes(call.overrides)
    own, found = _composer(call).config(own_arguments)
    mistakes += found
    cfg = OmegaConf.create({})
    if not OmegaConf.is_missing(own, "run"):
        try:
            cfg = compose_run(Path(str(own.run)), run_arguments, call.folders, call.settings, run_keys)
        except ConfigError as error:
            mistakes += error.mistakes
        except ValueError as error:
            mistakes.append(Mistake(f"run={own.run}", str(error)))
    raise_all(_without_missing(mistakes) if call.shows_only else mistakes)
    settings = OmegaConf.to_container(_without_hydra(own), resolve=not call.shows_only)
    OmegaConf.update(cfg, call.command, settings if call.shows_only else escape(settings), force_add=True)
    if call.shows_only:
        show(cfg, call.flags)
        return 0
    return body(cfg)
