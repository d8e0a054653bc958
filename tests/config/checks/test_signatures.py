"""A config is compared with the signatures it names, and keys that nothing reads are found."""

from __future__ import annotations

import collections.abc
from pathlib import Path
from typing import Any, Literal

import pytest
from omegaconf import OmegaConf

from diffusion_train import config
from diffusion_train.config.checks.annotations import fits
from diffusion_train.config.checks.signatures import unread
from diffusion_train.config.mistakes import ConfigError

HEUN = {
    "_target_": "diffusion_train.sampler.heun.Heun",
    "num_steps": 3,
    "grid": {"_target_": "diffusion_train.sampler.grid.Karras", "rho": 7.0},
}


class OfNoKind:
    def __init__(self, num_steps: int = 1, grid: object = None, rho: float = 0.0) -> None: ...


def told(cfg: dict[str, Any], **kwargs: Any) -> list[str]:
    try:
        config.check(OmegaConf.create(cfg), **kwargs)
    except ConfigError as error:
        return [str(mistake) for mistake in error.mistakes]
    return []


def test_a_right_config_passes():
    assert told({"seed": 1, "sampler": HEUN, "callbacks": {"samples": {"sampler": HEUN}}}, read=["seed"]) == []


def test_a_callback_that_is_null_is_told_how_to_leave_it_out():
    [mistake] = told({"callbacks": {"validation": None, "samples": {"sampler": HEUN}}})
    assert mistake == "callbacks.validation\n    nothing reads this key; to leave it out, write '~callbacks.validation'"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"num_step": 3}, "sampler.num_step\n    Heun has no such setting; did you mean num_steps?"),
        ({"num_steps": "many"}, "sampler.num_steps\n    must be int, got 'many'"),
        ({"num_steps": "???"}, "sampler.num_steps\n    Heun needs this setting"),
        (
            {"grid": {"_target_": "diffusion_train.diffusion.parameterization.V"}},
            "sampler.grid may be BySampler, Karras, ",
        ),
        ({"grid": {"_target_": f"{__name__}.OfNoKind"}}, "must be a Grid, got "),
        ({"_target_": f"{__name__}.OfNoKind"}, "must be a Sampler, got "),
        ({"_target_": f"{__name__}.Absent"}, "cannot be imported"),
        ({"_target_": f"{__name__}.absent.Sampler"}, "cannot be imported"),
    ],
    ids=[
        "unknown key",
        "wrong type",
        "missing",
        "part of another kind",
        "own part of no kind",
        "own sampler of no kind",
        "no such class",
        "no such module",
    ],
)
def test_a_setting_that_does_not_fit(change, words):
    config.allow([f"{__name__}."])
    mistakes = told({"sampler": {**HEUN, **change}})
    assert len(mistakes) == 1
    assert words in mistakes[0]


def test_everything_is_told_at_once():
    callbacks = {"a": {"sampler": {**HEUN, "num_steps": "???"}}}
    cfg = {"sampler": {**HEUN, "num_step": 3}, "callbacks": callbacks, "dead": 1, "part": {"dead": 2}}
    assert [m.split("\n")[0] for m in told(cfg)] == [
        "sampler.num_step",
        "callbacks.a.sampler.num_steps",
        "dead",
        "part.dead",
    ]


def test_a_partial_may_lack_settings_but_not_misname_them():
    optimizer = {"_target_": "diffusion_train.training.optimizer.adamw", "_partial_": True}
    assert told({"optimizer": optimizer}) == []
    assert len(told({"optimizer": {**optimizer, "etas": 1}})) == 1


@pytest.mark.parametrize(
    ("cfg", "read", "dead"),
    [
        ({"size": 3, "sampler": {**HEUN, "num_steps": "${size}"}}, [], []),
        ({"data": {"size": 3, "sampler": {**HEUN, "num_steps": "${.size}"}}}, [], ["data.size"]),
        ({"data": {"size": 3, "sampler": {**HEUN, "num_steps": "${..size}"}}}, [], []),
        ({"data": {"size": 3, "crop": 4}, "sampler": {**HEUN, "num_steps": "${data.size}"}}, [], ["data.crop"]),
        ({"data": {"size": 3}, "sampler": {**HEUN, "num_steps": "${oc.select:data.size,4}"}}, [], []),
        ({"data": {"a": {"b": 1}}}, ["data"], []),
        ({"seed": 3, "seeds": 4}, ["seed"], ["seeds"]),
        ({"empty": {}, "list": []}, [], ["list"]),
    ],
    ids=["read", "wrong level", "relative", "neighbour dead", "select", "below", "whole names", "empty part"],
)
def test_keys_that_nothing_reads(cfg, read, dead):
    cfg = OmegaConf.create(cfg)
    assert [mistake.where for mistake in unread(cfg, read)] == dead


@pytest.mark.parametrize(
    ("value", "annotation", "right"),
    [
        (1, int, True),
        (1.5, int, False),
        (True, int, False),
        (1, float, True),
        ("1", float, False),
        (True, bool, True),
        (1, bool, False),
        ("a", str, True),
        (1, str, False),
        (None, int | None, True),
        (None, int, False),
        ("a", Literal["a", "b"], True),
        ("c", Literal["a", "b"], False),
        ([1, 2], list[int], True),
        ([1, "b"], list[int], False),
        ([0.9, 0.99], tuple[float, float], True),
        ([0.9], tuple[float, float], False),
        ([1, 2, 3], tuple[int, ...], True),
        ([1], collections.abc.Sequence[int], True),
        ("abc", collections.abc.Sequence[int], False),
        ({"a": 1}, dict[str, int], True),
        ([1], dict[str, int], False),
        ("x/y", str | Path, True),
        ("x/y", Path, True),
        (3, Any, True),
        (3, "unknown", True),
    ],
)
def test_fits(value, annotation, right):
    assert fits(value, annotation) is right


def test_a_mistake_names_the_key_that_is_set_not_where_it_is_passed_on():
    heun = {**HEUN, "num_steps": "${data.steps}"}
    [mistake] = told({"data": {"steps": "many"}, "sampler": heun})
    assert mistake == "data.steps\n    must be int, got 'many'"


def test_a_precision_that_is_none_is_told_with_those_that_there_are():
    [mistake] = told({"trainer": {"_target_": "pytorch_lightning.Trainer", "precision": "foo"}})
    assert "must be one of 64, 32, 16, transformer-engine, " in mistake
    assert mistake.endswith("bf16, got 'foo'")
