"""Every setting of Lightning's Trainer is used by a run, or is a mistake that names what to use."""

from __future__ import annotations

import inspect

import pytest
import pytorch_lightning as pl
from omegaconf import OmegaConf

from diffusion_train.config.checks.trainer_settings import _INSTEAD, USED, trainer_mistakes
from diffusion_train.training_run import lightning_trainer

ALL = list(inspect.signature(pl.Trainer.__init__).parameters)[1:]
VALUES = {
    "accelerator": "cpu", "strategy": "ddp", "devices": 1, "num_nodes": 1, "precision": "bf16-mixed", "sync_batchnorm": True,
    "max_steps": 3, "max_time": "00:00:01:00", "log_every_n_steps": 2,
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


@pytest.mark.parametrize("strategy", ["ddp_spawn", "ddp_fork", "ddp_notebook"])
def test_processes_must_be_commands(strategy):
    cfg = OmegaConf.create({"trainer": {"_target_": "pytorch_lightning.Trainer", "strategy": strategy}})
    (mistake,) = trainer_mistakes(cfg)
    assert (mistake.where, mistake.remedy) == (f"trainer.strategy={strategy}", "use ddp")
