"""A faster setting is found below the noise of a machine, and noise is not advised."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest
from omegaconf import OmegaConf

from diffusion_train.bench.advice import Result, advised
from diffusion_train.bench.attempts import KINDS, Attempt, attempts, joined
from diffusion_train.bench.comparison import Comparison, compare, rank
from diffusion_train.bench.trial import Facts
from diffusion_train.command.bench import advice


class Machine:
    """Its speed drifts and jumps, for whatever runs on it."""

    def __init__(self, seed: int) -> None:
        self.random, self.slowness = random.Random(seed), 1.0

    def round(self, seconds: float) -> Callable[[], float]:
        def run() -> float:
            self.slowness = max(0.3, self.slowness * self.random.uniform(0.9, 1.1))
            return seconds * self.slowness * self.random.uniform(0.99, 1.01)

        return run


@pytest.mark.parametrize("num_rounds", [9, 15])
def test_the_planted_faster_one_is_advised(num_rounds: int) -> None:
    machine = Machine(0)
    found = compare(machine.round(1.0), machine.round(0.6), num_rounds)
    assert found.is_gain
    assert found.gain == pytest.approx(1 / 0.6 - 1, abs=0.15)


def test_noise_is_rarely_advised() -> None:
    wrong = sum(compare(machine.round(1.0), machine.round(1.0), 9).is_gain for machine in map(Machine, range(400)))
    assert wrong <= 400 * 0.04  # half of the 5 % outside the interval, and what chance adds to it


def test_what_is_always_slower_ends_early() -> None:
    assert len(compare(lambda: 1.0, lambda: 2.0, 100).ratios) == 6


@pytest.mark.parametrize(("count", "k"), [(5, 0), (6, 1), (9, 2), (12, 3), (20, 6)])
def test_the_interval_is_that_of_the_sign_test(count: int, k: int) -> None:
    assert rank(count) == k
    interval = Comparison(tuple(map(float, range(1, count + 1)))).interval
    assert interval == ((k - 1, count - k) if k else (-math.inf, math.inf))


def result(kind: str, ratio: float, **settings: object) -> Result:
    return Result(Attempt(kind, settings), Comparison((ratio,) * 6))


def test_the_best_of_each_kind_is_advised_in_order_of_gain() -> None:
    results = [
        result("workers", 1.1, workers=1),
        result("precision", 1.5, precision="bf16-mixed"),
        result("workers", 1.2, workers=2),
        result("compile", 0.9, compile=True),
        Result(Attempt("micro_batch", {"size": 8}), None, problem="out of memory"),
    ]
    assert [str(one.attempt) for one in advised(results)] == ["precision=bf16-mixed", "workers=2"]
    both = joined([one.attempt for one in advised(results)])
    assert str(both) == "precision=bf16-mixed workers=2"
    text = advice(results, Result(both, Comparison((1.8,) * 6)))
    assert text.index("precision=bf16-mixed") < text.index("workers=2") < text.index("+80.0 %")
    assert "-10.0 % (-10.0 to -10.0)  compile=true" in text
    assert "size=8 failed: out of memory" in text
    assert "nothing that was tried" in advice(results[3:], None)


def test_each_attempt_is_another_setting_than_the_present_one() -> None:
    facts = Facts("CPU", 1, "32-true", 16, is_fused=False, has_convolutions=True, flop=1, first_steps=1.0)
    cfg = OmegaConf.create(
        {
            "attempts": list(KINDS),
            "trainer": {"precision": "32-true", "accelerator": "cpu"},
            "data": {"micro_batch_size": None, "num_workers": 0},
            "channels_last": True,
            "compile": False,
            "optimizer": {"_target_": "torch.optim.AdamW"},
        }
    )
    tried = [str(attempt) for attempt in attempts(cfg, facts)]
    expected = {
        "trainer.precision=bf16-mixed",
        "channels_last=false",
        "compile=true",
        "data.micro_batch_size=8",
        "++optimizer.fused=true",
    }
    assert expected <= set(tried)
    assert not {"data.num_workers=0", "data.micro_batch_size=16", "OMP_NUM_THREADS=1"} & set(tried)
    changed = attempts(cfg, facts)[0].applied(cfg)
    assert (changed.trainer.precision, cfg.trainer.precision) == ("bf16-mixed", "32-true")
