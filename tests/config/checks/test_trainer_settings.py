"""Every setting of Lightning's Trainer is used by a run, or is a mistake that names what to use."""

from __future__ import annotations

import inspect
import re

import pytest
import pytorch_lightning as pl
from omegaconf import OmegaConf
from pytorch_lightning.strategies import StrategyRegistry

from diffusion_train.config.checks.trainer_settings import _INSTEAD, USED, trainer_mistakes
from diffusion_train.config.targets import forbidden
from diffusion_train.training_run import lightning_trainer

ALL = list(inspect.signature(pl.Trainer.__init__).parameters)[1:]
VALUES = {
    "accelerator": "cpu", "strategy": "ddp", "devices": 1, "num_nodes": 1, "precision": "bf16-mixed",
    "sync_batchnorm": True, "max_steps": 3, "max_time": "00:00:01:00", "log_every_n_steps": 2,
    "deterministic": True, "benchmark": True, "detect_anomaly": True, "profiler": "simple",
}  # fmt: skip


@pytest.mark.parametrize("key", ALL)
def test_every_setting_works_or_is_refused(key):
    cfg = OmegaConf.create(
        {"trainer": {"_target_": "pytorch_lightning.Trainer", "accelerator": "cpu", key: VALUES.get(key)}}
    )
    mistakes = trainer_mistakes(cfg)
    if key in USED:
        assert mistakes == []
        cfg.trainer.setdefault("max_steps", 1)
        cfg.trainer.setdefault("log_every_n_steps", 1)
        assert isinstance(lightning_trainer(cfg, logger=False), pl.Trainer)
    else:
        assert [mistake.where for mistake in mistakes] == [f"trainer.{key}"]


def test_what_is_used_instead_is_a_setting_that_is_not_used():
    assert _INSTEAD.keys() <= set(ALL) - set(USED)
    assert set(USED) <= set(ALL)
    assert tuple(VALUES) == USED


@pytest.mark.parametrize(
    ("key", "instead"),
    [
        ("limit_train_batches", "trainer.max_steps"),
        ("max_epochs", "trainer.max_steps"),
        ("overfit_batches", "debug=overfit"),
        ("gradient_clip_val", "clip_norm"),
        ("accumulate_grad_batches", "data.micro_batch_size"),
    ],
)
def test_a_setting_that_cuts_across_ours_names_ours(key, instead):
    cfg = OmegaConf.create({"trainer": {"_target_": "pytorch_lightning.Trainer", key: 2}})
    assert instead in trainer_mistakes(cfg)[0].remedy


@pytest.mark.parametrize("strategy", [*StrategyRegistry.available_strategies(), "auto", "fast", None])
def test_every_strategy_keeps_all_weights_on_each_rank_or_is_refused(strategy):
    mistakes = trainer_mistakes(with_strategy(strategy))
    if strategy in ("auto", "single_device", None) or re.fullmatch(r"ddp(_find_unused_parameters_\w+)?", strategy):
        assert mistakes == []
        return
    (mistake,) = mistakes
    assert (mistake.where, mistake.remedy) == (f"trainer.strategy={strategy}", "give auto, or ddp")
    problems = {"copies this process": "spawn|fork|notebook", "splits the weights": "fsdp|deepspeed"}
    (problem,) = [p for p, names in problems.items() if re.search(names, strategy)] or ["must be one of auto, ddp"]
    assert mistake.problem.startswith(problem)


@pytest.mark.parametrize("name", ["DDPStrategy", "FSDPStrategy", "DeepSpeedStrategy", "ModelParallelStrategy"])
def test_a_class_that_splits_the_weights_is_refused_even_if_the_command_line_allows_it(name):
    cfg = with_strategy({"_target_": f"pytorch_lightning.strategies.{name}"})
    assert bool(forbidden(OmegaConf.to_container(cfg))) == (name != "DDPStrategy")
    assert [mistake.problem[:6] for mistake in trainer_mistakes(cfg)] == ["splits"] * (name != "DDPStrategy")


def with_strategy(strategy):
    return OmegaConf.create({"trainer": {"_target_": "pytorch_lightning.Trainer", "strategy": strategy}})
