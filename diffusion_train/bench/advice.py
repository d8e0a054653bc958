"""Tries settings against the present ones, and advises those that gain."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from omegaconf import DictConfig

from diffusion_train.bench.attempts import Attempt, joined
from diffusion_train.bench.comparison import Comparison, compare
from diffusion_train.bench.trial import Facts, Trial, TrialFailed

_PREFETCHED = 2  # batches that each data worker has ready after a pause
_PROFILED = 3.0  # seconds of steps that a profile divides


@dataclass(frozen=True)
class Result:
    """What an attempt gained; `problem` says why it could not run."""

    attempt: Attempt
    comparison: Comparison | None
    facts: Facts | None = None
    problem: str = ""

    @property
    def is_gain(self) -> bool:
        return self.comparison is not None and self.comparison.is_gain

    @property
    def gain(self) -> float:
        return self.comparison.gain if self.comparison else -math.inf


class Rounds:
    """Compares settings with those of `present`, a running trial, in rounds of about `seconds`."""

    def __init__(self, present: Trial, num_rounds: int, seconds: float) -> None:
        self.present, self.num_rounds = present, num_rounds
        step = present.seconds(2)
        self.num_steps = max(1, round(seconds / step))
        self.num_profiled = max(int(present.cfg.trainer.log_every_n_steps), round(_PROFILED / step))

    def attempt(self, cfg: DictConfig, attempt: Attempt) -> Result:
        """Run a trial of the attempt beside the present one."""
        changed = attempt.applied(cfg)
        untimed = 1 + _PREFETCHED * max(one.data.get("num_workers") or 0 for one in (cfg, changed))
        try:
            with Trial(changed, attempt.environment) as trial:
                present, other = (
                    lambda one=one: one.seconds(self.num_steps, untimed) for one in (self.present, trial)
                )
                return Result(attempt, compare(present, other, self.num_rounds), trial.facts)
        except TrialFailed as failed:
            return Result(attempt, None, problem=str(failed))


def advised(results: Iterable[Result]) -> list[Result]:
    """Return the best attempt of each kind that gains more than noise, in order of gain."""
    best: dict[str, Result] = {}
    for result in sorted(results, key=lambda result: -result.gain):
        if result.is_gain:
            best.setdefault(result.attempt.kind, result)
    return list(best.values())


def together(results: Sequence[Result], attempt: Callable[[Attempt], Result]) -> Result | None:
    """Try all advised attempts at once; return None if there are fewer than two."""
    return attempt(joined([result.attempt for result in results])) if len(results) > 1 else None
