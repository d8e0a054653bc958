"""Values that no setting can have are refused by the key, whichever class reads it."""

from __future__ import annotations

import inspect
from math import inf, nan

import pytest
import torch

from diffusion_train.adapter.lora import LoRA
from diffusion_train.config.checks.annotations import fits
from diffusion_train.config.checks.values import not_finite
from diffusion_train.config.command_line.compose import Composer
from diffusion_train.config.folders import conf_folder, read_yaml
from diffusion_train.config.mistakes import ConfigError
from diffusion_train.config.run import compose_run
from diffusion_train.config.targets import allow, locate
from diffusion_train.guidance.classifier_free import ClassifierFree
from diffusion_train.training.lr_schedule import Cosine, InverseSqrt, Linear
from diffusion_train.training.optimizer import Optimization, adamw

CONF = conf_folder()
PARTS = [file for file in sorted(CONF.rglob("*.yaml")) if "_target_" in file.read_text("utf-8")]


@pytest.mark.parametrize("value", [nan, inf, -inf], ids=str)
@pytest.mark.parametrize("file", PARTS, ids=lambda file: str(file.relative_to(CONF)))
def test_every_number_that_is_not_finite_is_named(file, value):
    node = read_yaml(file.read_text("utf-8"))
    expected = list(_fill(node, "group", value))
    assert {mistake.where for mistake in not_finite(node, "group")} == set(expected)


def _fill(node, path, value):
    """Set each setting of a class that may be a fraction to `value`, and yield the names that messages have for it."""
    if "_target_" in node:
        for name, parameter in inspect.signature(locate(node["_target_"]), eval_str=True).parameters.items():
            if parameter.annotation is not parameter.empty and not fits("text", parameter.annotation):
                if fits(0.5, parameter.annotation):
                    node[name] = value
                    yield f"{path}.{name}={value}"
                elif fits([0.5], parameter.annotation):
                    node[name] = [0.5, value]
                    yield f"{path}.{name}[1]={value}"
    for name, child in node.items():
        if isinstance(child, dict):
            yield from _fill(child, f"{path}.{name}", value)


WRONG = {
    "clip_norm=inf",
    "condition_dropout=nan",
    "guidance.scale=nan",
    "adapter.text_encoder_lr=inf",
    "adapter.alpha=nan",
    "diffusion.offset_noise=inf",
    "ema.decays[0]=nan",
}


def test_they_are_listed_at_once_by_every_command():
    arguments = [argument.replace("decays[0]=nan", "decays=[nan]") for argument in WRONG]
    composer = Composer("config", [CONF], ())
    _, mistakes = composer.config(["experiment=sd15_lora", "guidance=classifier_free", "ema=constant", *arguments])
    assert {mistake.where for mistake in mistakes if mistake.problem == "must be a finite number"} == WRONG


def test_a_run_is_sampled_with_finite_settings(tmp_path):
    (tmp_path / "config.yaml").write_text("name: x\nguidance: {scale: 2.0}\n")
    with pytest.raises(ConfigError, match=r"guidance\.scale=inf\n +must be a finite number"):
        compose_run(tmp_path, ["guidance.scale=inf"], [CONF])


def test_classes_of_the_command_line_may_have_them():
    node = {"_target_": "mine.Net", "bound": inf}
    assert [mistake.where for mistake in not_finite(node, "network")] == ["network.bound=inf"]
    allow(["mine."])
    assert list(not_finite(node, "network")) == []
    allow([])


WEIGHTS = [{"params": [torch.zeros(1, requires_grad=True)]}]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Linear(10, final=-5.0), r"lr_schedule\.final=-5\.0: must be at least 0"),
        (lambda: Cosine(10, final=nan), r"lr_schedule\.final=nan: must be a finite number"),
        (lambda: InverseSqrt(10, constant_steps=-3), r"lr_schedule\.constant_steps=-3: must be at least 0"),
        (lambda: adamw(WEIGHTS, weight_decay=inf), r"optimizer\.weight_decay=inf: must be a finite number"),
        (lambda: Optimization(adamw, float, 1.0, inf), r"adapter\.text_encoder_lr=inf: must be a finite number"),
        (lambda: ClassifierFree(nan), r"guidance\.scale=nan: must be a finite number"),
        (lambda: LoRA(alpha=nan, scale=inf), r"adapter\.alpha=nan: must be .*\nadapter\.scale=inf: must be "),
        (
            lambda: LoRA(text_encoder=True, text_encoder_lr=inf),
            r"adapter\.text_encoder_lr=inf: must be a finite number",
        ),
    ],
)
def test_classes_refuse_them_in_python_too(make, message):
    with pytest.raises(ValueError, match=message):
        make()
