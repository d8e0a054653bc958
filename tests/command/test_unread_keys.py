"""A key that nothing reads is an error of every command, with a plus and without."""

from __future__ import annotations

from pathlib import Path

import pytest

from diffusion_train import config
from diffusion_train.command import cli
from diffusion_train.command.cli import launch
from diffusion_train.config.command_line.call import read_call
from diffusion_train.config.command_line.launch import first_pass
from diffusion_train.utils.exit_code import Exit

ON_A_RUN = [name for name, command in cli.commands().items() if command.run_keys]
NEEDED = {  # what each command must be given
    "approve": ["run=run", "use=x", "by=y", "revoke=true"],
    "bench": ["experiment=points"],
    "check": ["data.shards=x.tar", "out=out"],
    "encode": ["experiment=openmoji", "out=out"],
    "export": ["run=run", "out=out"],
    "prepare": ["path=x", "out=out"],
    "report": ["run=run"],
    "sample": ["run=run"],
    "train": ["experiment=points", "run_dir=new"],
    "unpickle": ["path=x.ckpt", "out=x.safetensors"],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With the folder `run` of a text-to-image run that has saved no weights yet."""
    folder = tmp_path_factory.mktemp("unread")
    cfg = first_pass(read_call("train", ("experiment=openmoji", "run_dir=run")))
    del cfg.hydra
    config.save_config(cfg, folder / "run" / "config.yaml")
    return folder


@pytest.fixture
def refusal(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """(command, argument) -> what the command prints about it."""
    monkeypatch.chdir(folder)

    def refusal(command: str, *arguments: str) -> str:
        assert launch(command, [*NEEDED[command], *arguments]) == Exit.WRONG
        return capsys.readouterr().err

    return refusal


def test_every_command_is_tested():
    assert NEEDED.keys() == cli.commands().keys()
    on_a_run = {name for name, command in cli.commands().items() if command.run_keys is not None}
    assert on_a_run == {command for command, needed in NEEDED.items() if needed[0] == "run=run"}


@pytest.mark.parametrize("argument", ["mask=m.png", "+mask=m.png"])
@pytest.mark.parametrize("command", NEEDED)
def test_a_key_that_nothing_reads_is_refused(refusal, command, argument):
    told = refusal(command, argument)
    assert "mask" in told
    assert "write +mask" not in told


@pytest.mark.parametrize("command", ON_A_RUN)
def test_settings_of_training_are_none_of_a_finished_run(refusal, command):
    arguments = ["optimizer.lr=1", "trainer.max_steps=3", "run_dir=x", "lr_schedule=constant"]
    told = refusal(command, *arguments)
    assert all(f"{argument}\n    nothing reads this key" in told for argument in arguments)


@pytest.mark.parametrize("command", ON_A_RUN)
def test_a_part_of_the_run_takes_no_setting_that_it_lacks(refusal, command):
    assert "has no such setting" in refusal(command, "+sampler.nonsense=1")


@pytest.mark.parametrize("images", ["[/nowhere.jpg]", "/nowhere.jpg"])
def test_images_are_refused_by_a_run_that_reads_none(refusal, images):
    told = refusal("sample", f"images={images}")
    assert told.startswith("1 mistake")
    assert "this run's conditioner reads no images; leave it out" in told
