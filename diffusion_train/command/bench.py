"""Measure where the time of a training step goes, and try what makes it faster.

Every attempt runs beside the present settings, in short rounds that alternate. It is advised only if the gain is larger
than the noise.
"""

from __future__ import annotations

import copy
import os
import sys
from collections.abc import Iterator, Sequence
from functools import partial

from omegaconf import DictConfig, open_dict

from diffusion_train import config, page
from diffusion_train.bench.advice import Result, Rounds, advised, together
from diffusion_train.bench.attempts import KINDS, Attempt, attempts
from diffusion_train.bench.occasional import by_step, leave_out, silence
from diffusion_train.bench.phases import PHASES
from diffusion_train.bench.trial import Facts, Profile, Trial, TrialFailed
from diffusion_train.callbacks.stop import GracefulStop
from diffusion_train.callbacks.time_budget import TimeBudget
from diffusion_train.command.train import validate
from diffusion_train.config.targets import locate
from diffusion_train.config.training_config import SETTINGS
from diffusion_train.training_run import lightning_trainer
from diffusion_train.utils.exit_code import Exit
from diffusion_train.utils.process.workers import available
from diffusion_train.utils.quiet import quiet_libraries

SUMMARY = "measure a training step, and try what makes it faster"
EXAMPLE = """\
diffusion-train bench experiment=openmoji
diffusion-train bench experiment=openmoji attempts=[precision,compile] num_rounds=15"""

READ = ("attempts", "num_rounds", "round_seconds")
_NO_END = 10**9  # steps


def run(cfg: DictConfig) -> int:
    """Measure the run of a training config and print a table; return the exit code. Raises ValueError for mistakes."""
    quiet_libraries()
    load = os.getloadavg()[0]  # before this command adds to it
    cfg.resume = "never"
    validate(cfg, read=(*SETTINGS, *READ))
    refuse(cfg)
    given = copy.deepcopy(cfg)
    num_devices = without_end(cfg)
    try:
        with Trial(cfg) as present:
            rounds = Rounds(present, cfg.num_rounds, cfg.round_seconds)
            profile, seconds = rounds.profile(), present.occasional()
            print(summary(cfg, present.facts, profile, num_devices, load, by_step(given, seconds)), end="", flush=True)
            resolved = for_attempts(cfg, present.facts)
            attempt = partial(rounds.attempt, resolved)
            results = [attempt(one) for one in announced(attempts(resolved, present.facts))]
            if results:
                print(advice(results, together(advised(results), attempt)), end="", flush=True)
    except TrialFailed as failed:
        raise ValueError(f"the run with the present settings failed: {failed}") from failed
    return Exit.DONE


def refuse(cfg: DictConfig) -> None:
    """Raises ConfigError with every mistake in the command's own settings."""
    mistakes = config.unknown_names("attempts", cfg.attempts, KINDS, "cannot be tried")
    if not cfg.round_seconds > 0:
        mistakes.append(config.Mistake(f"round_seconds={cfg.round_seconds:g}", "must be above 0", "give 0.5"))
    config.raise_all([*mistakes, *config.too_small(cfg, num_rounds=6)])


def without_end(cfg: DictConfig) -> int:
    """Make the run one without an end, on one device with its slice of the batch. What acts at few steps does not act.

    Return the number of devices that the run had.
    """
    trainer = lightning_trainer(cfg, logger=False)
    num_devices = trainer.num_devices * trainer.num_nodes
    with open_dict(cfg):
        cfg.compile = cfg.compile is True  # a run without an end would always repay it
        cfg.trainer.update(devices=1, num_nodes=1, strategy="auto", max_steps=_NO_END, max_time=None)
        cfg.data.batch_size //= num_devices
        cfg.logger.pop("wandb", None)
        for name, node in list(cfg.callbacks.items()):
            if locate(node["_target_"]) in (GracefulStop, TimeBudget):
                cfg.callbacks.pop(name)
        silence(cfg)
    return int(num_devices)


def for_attempts(cfg: DictConfig, facts: Facts) -> DictConfig:
    """Return the config with what the run has chosen by itself, and without the callbacks that act at few steps."""
    resolved = copy.deepcopy(cfg)
    resolved.trainer.precision = facts.precision
    with open_dict(resolved):
        leave_out(resolved)
    return resolved


def summary(
    cfg: DictConfig,
    facts: Facts,
    profile: Profile,
    num_devices: int,
    load: float,
    occasional: Sequence[tuple[str, float, int]] = (),
) -> str:
    """Return the text about the present settings. `load` is what other programs ask of the processors.

    `occasional` are key, seconds and steps between of callbacks.
    """
    phases = [(name, profile.phases[name]) for name in PHASES if name in profile.phases]
    shown = {"cfg": cfg, "facts": facts, "profile": profile, "phases": phases, "num_devices": num_devices}
    shown |= {"load": load, "num_processors": available(), "occasional": occasional}
    return page.plain("diffusion_train.bench", "profile.txt", **shown)


def advice(results: Sequence[Result], union: Result | None) -> str:
    """Return the text about the attempts: those that gain, all of them at once, the others and those that failed."""
    gains = advised(results)
    groups = {
        "gains": gains,
        "union": union,
        "others": [result for result in results if result not in gains and result.comparison],
        "failed": [result for result in results if result.problem],
    }
    return page.plain("diffusion_train.bench", "advice.txt", **groups)


def announced(tried: Sequence[Attempt]) -> Iterator[Attempt]:
    """Yield the attempts, and print each before it starts."""
    for number, attempt in enumerate(tried, 1):
        print(f"{number}/{len(tried)}  {attempt}", file=sys.stderr, flush=True)
        yield attempt
