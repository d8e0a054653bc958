"""The settings that are `auto` become what the run's own network is faster with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
from omegaconf import DictConfig, OmegaConf

from diffusion_train import choices
from diffusion_train.choices import choose, seconds_left

BUDGET = "diffusion_train.callbacks.time_budget.TimeBudget"


def config(**settings: Any) -> DictConfig:
    base = {"trainer": {"precision": "auto", "max_steps": 10}, "compile": "auto", "callbacks": {}}
    return OmegaConf.create(base | {"data": {"batch_size": 12}} | settings)


def test_both_are_chosen_with_the_run_s_own_network(
    run_points: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module, _ = run_points(tmp_path, 1)
    monkeypatch.setattr(choices, "BUDGET", 0.05)
    cfg = config()
    choose(cfg, module, module.trainer.datamodule, module.trainer)
    assert cfg.trainer.precision in ("32-true", "bf16-mixed")
    assert cfg.compile is False
    printed = capsys.readouterr().err
    assert f"trainer.precision=auto: chose {cfg.trainer.precision} (measured)" in printed
    assert "compile=auto: chose false (a run of about 0 minutes is too short" in printed


@pytest.mark.parametrize(
    ("times", "expected"), [((1.0, 0.5), "bf16-mixed"), ((1.0, 0.97), "32-true")], ids=["half", "3 % less"]
)
def test_the_precision_is_that_of_shorter_passes(times: tuple[float, float], expected: str) -> None:
    """The more rows fit into the budget, the more are measured; 100 rows take `times`."""

    class Rows:
        def __init__(self, count: int = 100) -> None:
            self.count = count

        def first(self, count: int) -> Rows:
            counts.append(min(count, self.count))
            return Rows(counts[-1])

        def seconds(self, precision: str) -> float:
            return times[precision == "bf16-mixed"] * self.count / 100

    counts: list[int] = []
    assert choices._faster_precision(Rows()) == expected  # type: ignore[arg-type]
    assert counts == [1, 16]


def test_several_processes_do_not_choose() -> None:
    cfg = config()
    choose(cfg, None, None, SimpleNamespace(num_devices=2, num_nodes=1))  # type: ignore[arg-type]
    assert (cfg.trainer.precision, cfg.compile) == ("32-true", False)


@pytest.mark.parametrize(
    ("trainer", "callbacks", "expected"),
    [
        ({"max_steps": 100}, {}, 50),
        ({"max_steps": 100}, {"end": {"_target_": BUDGET, "minutes": 0.5}}, 30),
        ({"max_steps": 100, "max_time": "00:00:00:20"}, {"end": {"_target_": BUDGET, "minutes": 0.5}}, 20),
        ({"max_steps": None}, {}, 0),
    ],
    ids=["steps", "budget", "time", "none"],
)
def test_a_run_is_as_long_as_its_first_limit(trainer: dict[str, Any], callbacks: Any, expected: float) -> None:
    built = pl.Trainer(max_time=trainer.get("max_time"), logger=False, enable_checkpointing=False)
    assert seconds_left(config(trainer=trainer, callbacks=callbacks), 0.5, built) == expected
