"""A clean command line goes through Hydra as usual; one run has one folder, and no stray files."""

from __future__ import annotations

import dataclasses
import os
import re
import sys

import pytest
from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from diffusion_train.config.command_line.call import read_call
from diffusion_train.config.command_line.launch import launch
from diffusion_train.config.mistakes import ConfigError
from diffusion_train.config.targets import is_trusted


@pytest.fixture
def start(conf, tmp_path, monkeypatch):
    """Runs a command on the small conf tree; keeps what its body was given."""
    monkeypatch.chdir(tmp_path)
    for name in ("WORLD_SIZE", "SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)

    def start(*arguments, command="train", body=lambda cfg: 0, ends=()):
        seen = []

        def keep(cfg):
            seen.append((OmegaConf.to_container(cfg, resolve=True), list(sys.argv)))
            return body(cfg)

        monkeypatch.setattr(sys, "argv", ["train.py", *arguments])
        call = read_call(command, arguments)
        code = launch(dataclasses.replace(call, folders=(conf, *call.folders[1:])), keep, ends)
        return code, seen

    return start


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_one_run_in_its_folder(start, tmp_path, conf):
    before = files(tmp_path)
    cwd = os.getcwd()
    code, [(cfg, _)] = start("run_dir='my runs/a=b{1}'", "seed=3")
    assert code == 0
    assert cfg["run_dir"] == str(tmp_path / "my runs" / "a=b{1}")
    assert (cfg["seed"], "hydra" in cfg) == (3, False)
    assert files(tmp_path) == before
    assert os.getcwd() == cwd
    assert not (tmp_path / "my runs" / "a=b{1}").exists()  # empty folders are removed again


def test_a_home_is_expanded_in_the_path_of_a_run_and_of_a_sweep(start, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    _, [(one, _)] = start("run_dir='~/runs/one'")
    assert one["run_dir"] == str(tmp_path / "home" / "runs" / "one")
    _, several = start("-m", "run_dir='~/sweep'", "seed=1,2")
    assert [cfg["run_dir"] for cfg, _ in several] == [str(tmp_path / "home" / "sweep" / job) for job in "01"]
    assert not (tmp_path / "~").exists()


def test_processes_that_lightning_starts_share_the_folder(start):
    folders = []
    _, [(parent, argv)] = start(
        "seed=4", "--config-dir", ".", body=lambda cfg: folders.append(HydraConfig.get().run.dir) or 0
    )
    told = [*argv[1:], f'hydra.run.dir="{folders[0]}"', "hydra.job.name=child", "hydra.output_subdir=null"]
    _, [(child, _)] = start(*told)
    assert child == parent


def test_a_sweep_has_a_folder_a_job_and_each_job_its_own_arguments(start, tmp_path, monkeypatch):
    arguments = ["-m", "seed=1,2", "run_dir=sweep", "allow_targets=[mine.]", "+hub_token=CANARY"]
    planted = ["+notes={password:CANARY}", "+pairs=[{name:password,value:CANARY}]", "+smtp.pin=7280124215"]
    told, saved = [], tmp_path / "sweep" / "multirun.yaml"
    monkeypatch.setattr(BasicLauncher, "launch", clean(BasicLauncher.launch, saved))

    def body(cfg):
        told.append(HydraConfig.get().run.dir)  # what Lightning hands to the processes it starts
        return cfg.seed

    code, seen = start(*arguments, *planted, body=body)
    assert code == 2
    assert [cfg["seed"] for cfg, _ in seen] == [1, 2]
    assert [cfg["run_dir"] for cfg, _ in seen] == [str(tmp_path / "sweep" / "0"), str(tmp_path / "sweep" / "1")]
    assert told == [cfg["run_dir"] for cfg, _ in seen]
    assert seen[1][1] == ["train.py", "allow_targets=[mine.]", "seed=2", "run_dir=sweep", "+hub_token=CANARY", *planted]
    assert files(tmp_path / "sweep") == ["multirun.yaml"]
    assert "- seed=1,2" in saved.read_text()


def clean(launch, saved):
    """A launcher, which may queue the jobs for hours, that sees no secret on disk before it starts them."""

    def checked(self, *args, **kwargs):
        assert "hub_token" in saved.read_text()
        assert not re.search("CANARY|7280124215", saved.read_text())
        return launch(self, *args, **kwargs)

    return checked


@pytest.mark.parametrize(
    "flags",
    [("--cfg", "job"), ("--cfg", "hydra"), ("--cfg", "all"), ("--cfg", "all", "--resolve"),
     ("--cfg", "all", "--package", "smtp")]
    + [("--info", what) for what in ("all", "config", "defaults-tree")],
    ids=" ".join,
)  # fmt: skip
def test_what_is_only_shown_has_no_secrets(start, capsys, flags):
    planted = ["+notes={password:CANARY}", "+pairs=[{name:password,value:CANARY}]", "+smtp={pin:7280124215}"]
    code, seen = start(*flags, *planted, "+title=hf_CANARY0123456789abcdef", "+mine.key=CANARY")
    shown = capsys.readouterr()
    assert (code, seen) == (0, [])
    assert len(shown.out) > 10
    assert not re.search("CANARY|7280124215", shown.out + shown.err)
    if flags[0] == "--cfg":
        assert ("hydra_logging" in shown.out) == (flags[-1] not in ("job", "smtp"))


@pytest.mark.slow
def test_a_sweep_ends_with_a_job_that_was_stopped(start):
    arguments = ("-m", "seed=1,2,3", "run_dir=sweep")
    code, seen = start(*arguments, body=lambda cfg: 75 if cfg.seed == 2 else 0, ends=(75, 130))
    assert (code, [cfg["seed"] for cfg, _ in seen]) == (75, [1, 2])
    assert [cfg["seed"] for cfg, _ in start(*arguments)[1]] == [1, 2, 3]


def test_every_choice_of_a_sweep_is_checked_first(start):
    with pytest.raises(ConfigError) as error:
        start("-m", "network=mlp,unt", "seed=1,2,x", "run_dir=sweep")
    assert [mistake.where for mistake in error.value.mistakes] == ["network=unt", "seed=x"]


def test_values_with_commas_need_multirun_or_quotes(start):
    with pytest.raises(ConfigError, match=r"--multirun .*shards=\[a,b\].*shards='a,b'"):
        start("shards=a,b")


@pytest.mark.parametrize("variable", ["WORLD_SIZE", "SLURM_STEP_NUM_TASKS"])
def test_processes_started_from_outside_need_a_run_dir(start, monkeypatch, variable):
    monkeypatch.setenv(variable, "2")
    with pytest.raises(ConfigError, match="give run_dir="):
        start()


def test_processes_started_from_outside_may_share_a_run_dir(start, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert start("run_dir=here")[0] == 0


def test_a_run_dir_that_cannot_be_written(start, tmp_path):
    (tmp_path / "file").write_text("")
    for run_dir in ("file", "file/run", "n" * 300):
        with pytest.raises(ConfigError, match=r"cannot be written to \(.*\); give another run_dir"):
            start(f"run_dir={run_dir}")


def test_targets_are_allowed_by_the_command_line_alone(start, conf, write):
    start("run_dir=a", "allow_targets=[my_own.]", body=lambda cfg: not is_trusted("my_own.X"))
    assert is_trusted("my_own.X")
    write(conf, {"extra/self.yaml": "# @package _global_\nallow_targets: [os.]\n"})
    with pytest.raises(ConfigError, match="command line only"):
        start("extra=self", "run_dir=a")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--experimental-rerun", "x.pickle"], "pickle"),
        (["--config-path", "x"], "--config-dir"),
        (["--config-dir", "nowhere"], "no such folder"),
        (["allow_targets=os"], "must be a list"),
    ],
    ids=["pickle", "path", "folder", "no list"],
)
def test_refused_flags(start, arguments, words):
    with pytest.raises(ConfigError, match=words):
        start(*arguments)


def test_cfg_shows_the_config_and_runs_nothing(start, capsys, tmp_path, conf):
    before = files(tmp_path)
    code, seen = start("--cfg", "job", "seed=9", "network=unet")
    assert (code, seen) == (0, [])
    assert "seed: 9" in capsys.readouterr().out
    assert files(tmp_path) == before


def test_a_command_on_a_run_gets_the_runs_config_and_its_own_settings(start, tmp_path, conf):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("name: x\nseed: 5\nsampler: {num_steps: 50, eta: 0.0}\n")
    prompts = """prompts=["a red apple", "flag of Türkiye"]"""
    code, [(cfg, _)] = start("run=run", prompts, "sampler=heun", "sampler.num_steps=20", "seed=3", command="sample")
    assert code == 0
    assert cfg["sample"]["prompts"] == ["a red apple", "flag of Türkiye"]
    assert (cfg["seed"], cfg["sample"]["seed"]) == (5, 3)
    assert (cfg["sampler"]["num_steps"], cfg["sampler"]["_target_"]) == (20, "diffusion_train.sampler.heun.Heun")
    assert not (tmp_path / "samples").exists()


def test_a_command_on_a_run_tells_all_mistakes_at_once(start, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("sampler: {num_steps: 50}\n")
    arguments = ["num_samples=x", "sampler=huen", "promts=[a]", "sampler.num_step=3"]
    with pytest.raises(ConfigError) as error:
        start("run=run", *arguments, command="sample")
    assert sorted(mistake.where for mistake in error.value.mistakes) == sorted(arguments)
    with pytest.raises(ConfigError, match="run\n    must be given"):
        start(command="sample")
