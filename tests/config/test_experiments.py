"""The real configuration: everything composes, resolves, and fits the signatures of what it names."""

from __future__ import annotations

import dataclasses
import inspect
from pathlib import Path

import pytest
import torch
import yaml
from omegaconf import open_dict
from safetensors.torch import save_file

from diffusion_train import config
from diffusion_train.command.train import run, validate
from diffusion_train.config.checks.annotations import fits
from diffusion_train.config.checks.signatures import target_nodes
from diffusion_train.config.command_line.compose import Composer
from diffusion_train.config.targets import locate
from diffusion_train.config.training_config import DRY_BUILT, SETTINGS, TrainingConfig
from diffusion_train.pretrained.diffusers_folder import WEIGHTS
from diffusion_train.pretrained.single_file import Model, write_layout

ROOT = Path(__file__).parents[2]
CONF = ROOT / "conf"
EXPERIMENTS = sorted(file.stem for file in (CONF / "experiment").glob("*.yaml"))
PARTS = [
    "data",
    "diffusion",
    "network",
    "conditioner",
    "autoencoder",
    "adapter",
    "guidance",
    "sampler",
    "callbacks",
    "logger",
]
WITH_OPTIONS = [
    "trainer",
    "debug",
    "optimizer",
    "lr_schedule",
    "ema",
    "sampler",
    "guidance",
    "autoencoder",
    "adapter",
    "logger",
]
NOT_PARTS = {"experiment", "trainer", "debug", "optimizer", "lr_schedule", "ema", "source"}
OPTIONS = [f"{group}={file.stem}" for group in WITH_OPTIONS for file in sorted((CONF / group).glob("*.yaml"))]
OPTIONS += [f"diffusion/time_sampler={name}" for name in ("logit_normal", "stratified")]


def composed(*arguments: str):
    settings = ("hydra.run.dir=${run_dir}",)
    cfg, mistakes = Composer("config", [CONF], settings).config([*arguments, "run_dir=somewhere"])
    assert not [mistake for mistake in mistakes if mistake.problem != "must be given"], mistakes
    with open_dict(cfg):
        cfg.pop("hydra")
    cfg.trainer.precision = "32-true"
    return cfg


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_fits_what_it_names(experiment: str, tmp_path: Path) -> None:
    settings = yaml.safe_load((CONF / "experiment" / f"{experiment}.yaml").read_text("utf-8"))
    needed = ["data.shards=some.tar"] if "'path/to" in (CONF / "experiment" / f"{experiment}.yaml").read_text() else []
    if accepted := settings.get("base", {}).get("accepts"):
        needed.append(f"pretrained={described('sdxl' if 'sdxl' in accepted else 'sd1', tmp_path)}")
    config.check(composed(f"experiment={experiment}", *needed), read=SETTINGS)


def described(kind: str, folder: Path) -> Path:
    """Stable Diffusion without its weights."""
    write_layout(Model(kind, "epsilon", False), folder)
    for name in WEIGHTS["sdxl" if kind == "sdxl" else "sd"]:
        prefix = "" if name.startswith("text_encoder") else "diffusion_pytorch_"
        save_file({}, folder / name / f"{prefix}model.safetensors")
        (folder / name.replace("text_encoder", "tokenizer")).mkdir(exist_ok=True)
    return folder


@pytest.mark.parametrize("source", sorted(file.stem for file in (CONF / "data/captions/source").glob("*.yaml")))
def test_every_source_of_captions_fits_what_it_names(source: str) -> None:
    table = ["data.captions.source.path=some.csv"] if source == "csv" else []
    cfg = composed("data=shards", "data.shards=some.tar", f"data/captions/source={source}", *table)
    config.check(cfg, read=SETTINGS)


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.slow
def test_every_option_fits_what_it_names(option: str) -> None:
    needed = ["autoencoder.source=somewhere"] if option == "autoencoder=kl" else []
    config.check(composed("experiment=points", option, *needed), read=SETTINGS)


def test_what_parts_say_of_their_settings_is_told_at_once_before_data_or_weights_are_touched(tmp_path: Path) -> None:
    model = [f"pretrained={described('sd1', tmp_path)}", "data.shards=nowhere.tar", "data.image_size=100"]
    cfg = composed("experiment=sd15_lora", *model, "data.holdout=-1", "ema.decays=[2]", "data.batch_size=0")
    cfg.base_record.folder = str(tmp_path)
    with pytest.raises(config.ConfigError) as refused:
        validate(cfg)
    assert [mistake.where for mistake in refused.value.mistakes] == [
        "data.holdout=-1",
        "data.batch_size=0",
        "ema.decays=[2]",
        "data.image_size",
    ]
    assert "multiples of 8" in refused.value.mistakes[-1].problem


WRONG_NUMBERS = {
    "clip_norm=-1": "above 0, or null",
    "trainer.max_steps=0": "at least 1",
    "trainer.log_every_n_steps=0": "at least 1",
    "callbacks.checkpointing.num_kept=0": "at least 1",
    "callbacks.noise_levels.every_n_steps=0": "at least 1",
    "callbacks.samples.every.first=-1": "at least 0",
    "data.batch_size=0": "at least 1",
    "condition_dropout=2": "in [0, 1]",
    "optimizer.weight_decay=-1": "at least 0",
    "lr_schedule.final=-5.0": "at least 0",
    "adapter.rank=0": "at least 1",
}


def test_lengths_and_intervals_that_cannot_be_are_told_together() -> None:
    validate(composed("experiment=points", "trainer=cpu"))
    with pytest.raises(config.ConfigError) as error:
        validate(composed("experiment=points", "trainer=cpu", "lr_schedule=cosine", "adapter=lora", *WRONG_NUMBERS))
    problems = {mistake.where: mistake.problem for mistake in error.value.mistakes}
    assert problems.keys() == WRONG_NUMBERS.keys()
    for where, problem in WRONG_NUMBERS.items():
        assert problem in problems[where]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("trainer.max_steps=-1", "trainer.max_steps=-1\n.*at least 1"),
        ("trainer.devices=0", r"\n  trainer\.devices=0\n.*not a valid input.*; give a number of at least 1, or auto"),
        ("trainer.devices=-1", r"trainer\.devices=-1\n.*should be an int > 0"),
        ("trainer.max_time=7h", r"\n  trainer\.max_time=7h\n.*; give days:hours:minutes:seconds"),
        ("trainer.accelerator=mps", r"trainer\.accelerator=mps\n.*not run on your system.*; give auto, or cpu"),
        ("trainer.strategy=fast", r"trainer\.strategy=fast\n.*; give auto, or ddp"),
    ],
)
def test_what_lightning_refuses_is_told_with_the_others(wrong: str, message: str) -> None:
    if wrong.endswith("mps") and torch.backends.mps.is_available():
        pytest.skip("this machine has one")
    with pytest.raises(config.ConfigError, match=message) as error:
        validate(composed("experiment=points", "trainer=cpu", wrong, "data.batch_size=0"))
    assert len(error.value.mistakes) == 2


def test_parts_of_the_data_that_are_wrong_hide_no_mistakes_of_the_others() -> None:
    wrong = ["data.buckets.max_ratio=0.5", "data.holdout=-1", "data.captions.templates=['{x}']", "data.image_size=30"]
    with pytest.raises(config.ConfigError) as refused:
        validate(composed("experiment=ddpm_cifar_style", "data.shards=x.tar", "trainer=cpu", *wrong))
    assert {mistake.where for mistake in refused.value.mistakes} == {
        "data.buckets.max_ratio=0.5, data.buckets.divisor=64",
        "data.holdout=-1",
        "data.captions.templates",
        "data.image_size=30",
    }


def test_prompts_of_a_run_that_reads_none_are_told() -> None:
    given = ["experiment=ddpm_cifar_style", "data.shards=x.tar", "trainer=cpu"]
    validate(composed(*given))
    validate(composed(*given, 'callbacks.samples.prompts=[""]'))
    with pytest.raises(config.ConfigError, match=r"samples\.prompts=\['red'\]\n.*reads no captions") as error:
        validate(composed(*given, "callbacks.samples.prompts=[red]", "callbacks.samples.negative_prompt=blue"))
    assert len(error.value.mistakes) == 2


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_that_is_not_one_is_told_by_its_name(seed: int) -> None:
    """In other tools, -1 draws a seed."""
    with pytest.raises(config.ConfigError, match=f"seed={seed}\n.*must be from 0 to 4294967295"):
        validate(composed("experiment=ddpm_cifar_style", "data.shards=x.tar", "trainer=cpu", f"seed={seed}"))


def test_wrong_settings_are_told_before_a_model_is_fetched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fetched: list[str] = []
    monkeypatch.setattr("diffusion_train.pretrained.hub.snapshot", lambda *_: described("sd1", tmp_path))
    cfg = composed("experiment=sd15_lora", "pretrained=owner/name", "data.shards=nowhere.tar", "data.num_workers=-1")
    monkeypatch.setattr("diffusion_train.pretrained.hub.snapshot", lambda source, *_: fetched.append(source))
    with pytest.raises(config.ConfigError, match=r"data\.num_workers=-1"):
        run(cfg)
    assert fetched == []


@pytest.mark.parametrize("data", sorted(file.stem for file in (CONF / "data").glob("*.yaml")))
def test_settings_that_may_be_fractions_take_them_on_the_command_line(data: str) -> None:
    """A default written as a whole number would make of 0.1 or 2.5 a mistake."""
    needed = {"shards": ["data.shards=some.tar"], "stream": ["data.shards=some.tar"], "folder": ["data.folder=photos"]}
    cfg = composed(f"data={data}", *needed.get(data, []))
    whole = [
        f"{path}.{key}"
        for path, node in target_nodes(cfg)
        for key, parameter in inspect.signature(locate(node["_target_"]), eval_str=True).parameters.items()
        if type(node.get(key)) is int and fits(0.5, parameter.annotation)
    ]
    assert not whole


@pytest.mark.parametrize(
    "option",
    [
        "network=dit",
        "network=unet",
        "diffusion=ddpm",
        "diffusion=edm",
        "diffusion/schedule=cosine",
        "lr_schedule=cosine",
        "ema=constant",
        "guidance=none",
        "sampler=heun",
        "callbacks=images",
        "conditioner=label",
    ],
)
@pytest.mark.slow
def test_parts_of_the_default_experiment_can_be_exchanged_by_a_word(option: str) -> None:
    """What an experiment sets must fit every option, or stand in an option of its own."""
    classes = ["conditioner.num_classes=3"] if option == "conditioner=label" else []
    config.check(composed("experiment=openmoji", option, *classes), read=SETTINGS)


def test_the_top_level_of_a_training_config_is_described_whole() -> None:
    """Every key of config.yaml is a setting or a group of `TrainingConfig`, and nothing else is."""
    settings = yaml.safe_load((CONF / "config.yaml").read_text("utf-8"))
    groups = {str(key) for entry in settings.pop("defaults") if isinstance(entry, dict) for key in entry}
    groups = {group for group in groups if not group.startswith("optional ")} - {"experiment"}
    assert {field.name for field in dataclasses.fields(TrainingConfig)} == {*settings, *groups}
    assert {name for name in SETTINGS if "." not in name} == {*settings, "base_record"}
    assert groups > {*DRY_BUILT} > {"diffusion", "sampler"}


def test_groups_are_the_packages_folders() -> None:
    groups = {folder.name for folder in CONF.iterdir() if folder.is_dir()}
    assert groups == {*PARTS, *NOT_PARTS}
    assert all((ROOT / "diffusion_train" / group).is_dir() for group in PARTS)


@pytest.mark.parametrize("file", sorted(CONF.glob("*/**/*.yaml")), ids=lambda file: str(file.relative_to(CONF)))
def test_targets_of_a_group_lie_in_its_folder(file: Path) -> None:
    group = file.relative_to(CONF).parts[0]
    target = (yaml.safe_load(file.read_text("utf-8")) or {}).get("_target_", "")
    if group in PARTS and target:
        assert target.startswith(f"diffusion_train.{group}.")
