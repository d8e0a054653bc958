"""The config of a run is data; parts of it can be exchanged and set for sampling."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

from diffusion_train import config
from diffusion_train.config.checks.values import is_addable
from diffusion_train.config.mistakes import ConfigError

SAVED = {
    "name": "saved",
    "seed": 5,
    "size": 32,
    "network": {"_target_": "diffusion_train.network.mlp.MLP", "width": 8},
    "guidance": {"_target_": "diffusion_train.guidance.classifier_free.ClassifierFree", "scale": 2.0},
    "sampler": {
        "_target_": "diffusion_train.sampler.ddim.DDIM",
        "num_steps": 50,
        "eta": 0.0,
        "grid": {"_target_": "diffusion_train.sampler.grid.Uniform"},
    },
}

CONF = Path(__file__).parents[2] / "conf"
NO_GUIDANCE = "diffusion_train.guidance.none.NoGuidance"


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "run folder"
    folder.mkdir()
    (folder / "config.yaml").write_text(yaml.safe_dump(SAVED))
    return folder


def test_without_overrides_it_is_the_runs_own(run, conf):
    assert config.compose_run(run, [], [conf]) == SAVED


def test_a_part_is_exchanged_whole_and_then_set(run, conf):
    cfg = config.compose_run(run, ["sampler.num_steps=20", "sampler=heun", "guidance.scale=3", "seed=7"], [conf])
    assert cfg.sampler == {
        "_target_": "diffusion_train.sampler.heun.Heun",
        "num_steps": 20,
        "grid": {"_target_": "diffusion_train.sampler.grid.Uniform"},
    }
    assert (cfg.guidance.scale, cfg.seed, cfg.network) == (3, 7, SAVED["network"])


@pytest.mark.parametrize("sampler", [[], ["sampler=heun"]], ids=["of the run", "of a new sampler"])
def test_a_part_of_a_part_is_exchanged(run, conf, sampler):
    cfg = config.compose_run(run, [*sampler, "sampler/grid=karras", "sampler.grid.rho=5.0"], [conf])
    assert cfg.sampler.grid == {"_target_": "diffusion_train.sampler.grid.Karras", "rho": 5.0}
    assert cfg.sampler.num_steps == (18 if sampler else 50)


@pytest.mark.parametrize(
    ("arguments", "changed"),
    [
        (["sampler=ddim"], {}),
        (["sampler=ddim", "sampler.num_steps=9"], {"num_steps": 9}),
        (["sampler=ddim", "sampler.clip_x0=false"], {"clip_x0": False}),
        (["sampler=ddpm"], {"num_steps": 1000, "eta": 1.0}),
        (["sampler=ddim", "sampler/grid=uniform"], {"grid": {"_target_": "diffusion_train.sampler.grid.Uniform"}}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_the_runs_own_sampler_keeps_its_settings(tmp_path, arguments, changed):
    """And another one keeps the grid, and whether the data are clipped."""
    grid = {"_target_": "diffusion_train.sampler.grid.Trailing", "num_levels": 500}
    own = {**SAVED["sampler"], "num_steps": 25, "clip_x0": True, "grid": grid}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(SAVED | {"sampler": own}))
    assert config.compose_run(tmp_path, arguments, [CONF]).sampler == own | changed


def test_an_option_may_refer_to_the_runs_values(run, conf, write):
    write(conf, {"sampler/by_size.yaml": "num_steps: ${size}\n"})
    cfg = config.compose_run(run, ["sampler=by_size", "size=64"], [conf])
    assert cfg.sampler.num_steps == 64


def test_options_come_from_the_users_folder_too(run, conf, tmp_path, write):
    user = write(tmp_path / "user", {"sampler/mine.yaml": "num_steps: 1\n"})
    assert config.compose_run(run, ["sampler=mine"], [conf, user]).sampler == {"num_steps": 1}


def test_all_mistakes_are_told_at_once(run, conf):
    arguments = ["sampler=huen", "guidance.scal=3", "sampler.num_steps=x", "num_sample=4", "extra=long", "a=b=c"]
    with pytest.raises(ConfigError) as error:
        config.compose_run(run, arguments, [conf], words=["num_samples"])
    assert {mistake.where for mistake in error.value.mistakes} >= set(arguments) - {"extra=long"}
    for words in ("did you mean heun?", "did you mean guidance.scale?", "did you mean num_samples?", "whole number"):
        assert words in str(error.value)


@pytest.mark.parametrize(
    ("key", "addable"),
    [("mask", False), ("seed.x", False), ("sampler.x", True), ("sampler.grid.x", True), ("a.b", False)],
)
def test_a_plus_is_advised_only_where_something_may_read_a_new_key(key, addable):
    assert is_addable(key, OmegaConf.create(SAVED)) == addable


def test_a_group_that_is_no_part_of_the_run(run, conf):
    with pytest.raises(ConfigError, match="'extra' is not a part"):
        config.compose_run(run, ["extra=long"], [conf])


def weights_of(folder: Path, saved: dict) -> Path:
    description = json.dumps({"format": 1, "config": saved, "shape": [2]})
    header = json.dumps({"__metadata__": {"diffusion_train": description}}).encode()
    file = folder / "weights.safetensors"
    file.write_bytes(len(header).to_bytes(8, "little") + header)
    return file


def test_the_header_of_weights_serves_as_well(tmp_path):
    assert config.load_run_config(weights_of(tmp_path, SAVED)) == SAVED


def test_a_folders_weights_know_best_what_they_were_trained_with(run, conf):
    weights_of(run, SAVED | {"seed": 6})
    assert config.load_run_config(run).seed == 6
    assert config.compose_run(run, ["size=64"], [conf]).seed == 6


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: !!python/object/apply:os.system ['touch canary']", "YAML"),
        ("a: [", "YAML"),
        ("a: &x [1]\nb: [*x, *x]", "aliases"),
        ("- a", "mapping"),
        ("", "mapping"),
        ("a: {_target_: os.system, command: touch canary}", "'os.system' is not an allowed target"),
        ("a: [{b: {_target_: diffusion_train.command.cli.main}}]", "not an allowed target"),
        ("a: '" + "x" * 2_000_000 + "'", "at most 1048576 bytes, got 20000"),
        ("a: " + "[" * 100_000, "nested"),
        ("- " * 100_000, "YAML|nested"),
    ],
    ids=["code", "broken", "bomb", "list", "empty", "shell", "own command", "huge", "nested", "nested lists"],
)
def test_hostile_run_configs_are_refused_by_file(tmp_path, monkeypatch, text, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(ValueError, match=words):
        config.load_run_config(tmp_path)
    assert not (tmp_path / "canary").exists()


def test_references_in_a_runs_config_are_text(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/canary")
    cfg = config.from_container({"a": "${oc.env:HOME}", "b": "\\${x}", "c": ["${a}"]})
    assert OmegaConf.to_container(cfg, resolve=True) == {"a": "${oc.env:HOME}", "b": "\\${x}", "c": ["${a}"]}


@pytest.mark.parametrize("name", ["nothing", "weights.safetensors", "http://host/run"])
def test_no_run_there(tmp_path, name):
    with pytest.raises(ValueError, match="run="):
        config.load_run_config(tmp_path / name)


@pytest.mark.parametrize("name", ["config.yaml", "checkpoints/last.ckpt"])
def test_of_another_file_of_a_run_the_folder_is_named(run, name):
    (run / "checkpoints").mkdir()
    (run / "checkpoints" / "last.ckpt").write_bytes(b"x" * 2_000_000)
    with pytest.raises(ValueError, match=rf"give the folder: run={re.escape(str(run))}$"):
        config.load_run_config(run / name)


def test_a_key_of_another_option_of_the_group_names_that_option(run, conf, write):
    write(conf, {"guidance/strong.yaml": "scale: 3\n", "guidance/none.yaml": f"_target_: {NO_GUIDANCE}\n"})
    (run / "config.yaml").write_text(yaml.safe_dump(SAVED | {"guidance": {"_target_": NO_GUIDANCE}}))
    with pytest.raises(
        ConfigError, match=r"no key 'guidance.scale'; only guidance=strong has this key; write guidance=strong guidance"
    ):
        config.compose_run(run, ["guidance.scale=3"], [conf])


def test_a_file_that_is_no_weights_of_ours(tmp_path):
    file = tmp_path / "weights.safetensors"
    file.write_bytes(b"\xff" * 64)
    with pytest.raises(ValueError, match=str(file)):
        config.load_run_config(file)


def test_a_run_of_before_data_had_a_class_is_still_read():
    module = {"_target_": "diffusion_train.data.datamodule.DataModule"}
    data = {"image_size": 8, "module": module}
    assert config.from_container({"data": data}) == {"data": {"image_size": 8}}
    with pytest.raises(ConfigError, match=r"data.module._target_"):
        config.from_container({"data": {"_target_": "diffusion_train.data.data_settings.ShardData", **data}})
