"""Tries settings against the present ones, and advises those that gain."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from omegaconf import DictConfig

from diffusion_train.bench.attempts import Attempt, joined
from diffusion_train.bench.comparison import Comparison, compare
from diffusion_train.bench.trial import Profile, Trial, TrialFailed

_PREFETCHED = 2  # batches that each data worker has ready after a pause
_PROFILED = 3.0  # seconds of steps that a profile divides


@dataclass(frozen=True)
class Result:
    """What an attempt gained; `problem` says why it could not run.

    `later` are the seconds by which its first steps take longer.
    """

    attempt: Attempt
    comparison: Comparison | None
    later: float = 0.0
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
        self.step = present.seconds(2)
        self.num_steps = max(1, round(seconds / self.step))

    def profile(self) -> Profile:
        """Return the profile of the present settings, over at least one step that logs."""
        num_steps = max(int(self.present.cfg.trainer.log_every_n_steps), round(_PROFILED / self.step))
        return self.present.profile(num_steps, _untimed(self.present.cfg))

    def attempt(self, cfg: DictConfig, attempt: Attempt) -> Result:
        """Run a trial of `cfg` changed by `attempt`, beside the present one. Raises TrialFailed if that one ends."""
        changed = attempt.applied(cfg)
        untimed = max(_untimed(cfg), _untimed(changed))
        try:
            with Trial(changed, attempt.environment) as trial:
                present, other = (partial(one.seconds, self.num_steps, untimed) for one in (self.present, trial))
                later = trial.facts.first_steps - self.present.facts.first_steps
                return Result(attempt, compare(present, other, self.num_rounds), later)
        except TrialFailed as failed:
            if not self.present.is_running:
                raise
            return Result(attempt, None, problem=str(failed))


def _untimed(cfg: DictConfig) -> int:
    """Return how many steps after a pause have their data ready, which is not how a run goes on."""
    return 1 + _PREFETCHED * (cfg.data.get("num_workers") or 0)


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
