from __future__ import annotations

import pytest
from omegaconf import OmegaConf
from pytorch_lightning.utilities.exceptions import MisconfigurationException

import diffusion_train.config.checks.dry_build as dry_build_module
from diffusion_train.config.checks.dry_build import dry_build, mistakes_of
from diffusion_train.config.targets import build

RATIOS = "diffusion_train.data.order.resolution.AspectRatios"


def _config(**data):
    return OmegaConf.create({"data": data, "ema": {"_target_": "diffusion_train.training.ema.constant", "decays": [2]}})


def _told(cfg, groups=("data", "ema")):
    return [(mistake.where, mistake.problem[:10]) for mistake in dry_build(cfg, groups)]


def test_every_part_tells_its_mistakes_and_those_around_it_are_not_made():
    cfg = _config(
        _target_="diffusion_train.data.data_settings.PointsData",
        kind="none",
        buckets={"_target_": RATIOS, "max_ratio": 0.5},
        captions={"_target_": "diffusion_train.data.caption.captions.Captions", "source": None, "templates": ["{x}"]},
    )
    wanted = [
        ("data.buckets.max_ratio=0.5, data.buckets.divisor=64", "must be at"),
        ("data.captions.templates", "'{x}': it "),
    ]
    assert [where for where, _ in _told(cfg, groups=["data"])] == [where for where, _ in wanted]
    assert ("ema.decays=[2]", "give one o") in _told(cfg)


def test_a_setting_is_named_by_its_whole_key_and_what_refers_to_a_wrong_part_is_not_made():
    every = {"_target_": "diffusion_train.callbacks.scheduled.Every", "num_steps": -1}
    saving = {"_target_": "diffusion_train.callbacks.checkpointing.Checkpointing", "run_dir": "r", "every_n_steps": 0}
    grid = {"_target_": "diffusion_train.sampler.grid.Uniform"}
    cfg = OmegaConf.create(
        {
            "sampler": {"_target_": "diffusion_train.sampler.ddim.DDIM", "num_steps": 0, "grid": grid},
            "callbacks": {
                "saving": {**saving, "num_kept": 0},
                "samples": {"_target_": "diffusion_train.callbacks.sample_grid.SampleGrid", "sampler": "${sampler}"},
                "validation": {"_target_": "diffusion_train.callbacks.validation.Validation", "every": every},
            },
        }
    )
    assert [mistake.where for mistake in dry_build(cfg, ["sampler", "callbacks"])] == [
        "sampler.num_steps=0",
        "callbacks.validation.every.num_steps=-1",
        "callbacks.saving.every_n_steps=0",
        "callbacks.saving.num_kept=0",
    ]


def test_parts_inside_a_sound_part_are_not_built_apart(monkeypatch):
    built = []
    monkeypatch.setattr(dry_build_module, "build", lambda node: built.append(node._get_full_key(None)) or build(node))
    grid = {"_target_": "diffusion_train.sampler.grid.Uniform"}
    sampler = {"_target_": "diffusion_train.sampler.ddim.DDIM", "num_steps": 5, "grid": grid}
    assert _told(OmegaConf.create({"sampler": sampler}), groups=["sampler"]) == []
    assert built == ["sampler"]


def test_settings_that_lightning_refuses_are_told_like_others():
    stopping = {"_target_": "pytorch_lightning.callbacks.EarlyStopping", "monitor": "train/loss", "mode": "least"}
    refusals = (ValueError, MisconfigurationException)
    [mistake] = dry_build(OmegaConf.create({"callbacks": {"stopping": stopping}}), ["callbacks"], refusals=refusals)
    assert (mistake.where, "`mode` can be" in mistake.problem) == ("callbacks.stopping", True)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("data.crop=side: one of a, b", [("data.crop=side", "one of a, b")]),
        ("data.resolution=[[5, 3]]: the first: 0", [("data.resolution=[[5, 3]]", "the first: 0")]),
        ("data.buckets: no multiple\na.b=1: more", [("data.buckets", "no multiple"), ("a.b=1", "more")]),
        ("schedule Linear of zero SNR: choose v", [("part", "schedule Linear of zero SNR: choose v")]),
    ],
)
def test_a_line_of_an_error_names_the_setting_or_the_part(text, told):
    assert [(mistake.where, mistake.problem) for mistake in mistakes_of(ValueError(text), "part")] == told
