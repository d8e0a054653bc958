"""Data that a command line names choose their option of `data`, and the recipe where none is named."""

from __future__ import annotations

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from diffusion_train.config import ConfigError
from diffusion_train.config.command_line.call import read_call
from diffusion_train.config.command_line.launch import first_pass

SHARDS = "data.shards='x-{0..9}.tar'"


@pytest.fixture(autouse=True)
def _photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "photos").mkdir()
    monkeypatch.chdir(tmp_path)


def composed(*arguments: str):
    cfg = first_pass(read_call("train", [*arguments, "run_dir=somewhere"]))
    return OmegaConf.masked_copy(cfg, [key for key in cfg if key != "hydra"])


@pytest.mark.parametrize(
    ("arguments", "recipe", "data"),
    [
        ([], "openmoji", "OpenMoji"),
        ([SHARDS], "own_images", "x-{0..9}.tar"),
        (["data.folder=photos"], "own_images", "ImageFolder"),
        (["data=shards", SHARDS], "own_images", "x-{0..9}.tar"),
        (["experiment=openmoji", SHARDS], "openmoji", "x-{0..9}.tar"),
        (["experiment=openmoji", "data.folder=photos"], "openmoji", "ImageFolder"),
        (["experiment=ddpm_cifar_style", SHARDS], "ddpm_cifar_style", "x-{0..9}.tar"),
        (["experiment=own_images_with_text", "data.folder=photos"], "own_images_with_text", "ImageFolder"),
    ],
)
def test_the_data_named_are_trained_on_by_the_recipe_named(arguments: list[str], recipe: str, data: str) -> None:
    cfg = composed(*arguments)
    shards = cfg.data.shards if isinstance(cfg.data.shards, str) else cfg.data.shards["_target_"].rpartition(".")[2]
    assert (cfg.name, shards) == (recipe, data)


def test_a_recipe_keeps_all_but_its_data() -> None:
    own, theirs = composed("experiment=openmoji", SHARDS), composed("experiment=openmoji")
    assert {key: own[key] for key in own if key != "data"} == {key: theirs[key] for key in theirs if key != "data"}
    assert (own.data.batch_size, own.data.image_size) == (16, 32)


def test_what_is_chosen_is_chosen_again_by_further_processes() -> None:
    call = read_call("train", [SHARDS])
    assert call.overrides == ("experiment=own_images", SHARDS)
    assert read_call("train", call.overrides).overrides == call.overrides


def test_a_recipe_of_ones_own_keeps_an_option_that_takes_shards(tmp_path, write) -> None:
    files = {
        "data/mine.yaml": "defaults: [shards, _self_]\nshards: mine.tar\ncrop: random\n",
        "experiment/mine.yaml": "# @package _global_\ndefaults: [{override /data: mine}]\nname: mine\n",
        "experiment/yours.yaml": "# @package _global_\ndefaults: [mine]\nname: yours\n",
    }
    folder = ["--config-dir", str(write(tmp_path / "conf", files))]
    cfg = composed("experiment=yours", "data.shards=other.tar", *folder)
    assert (cfg.name, cfg.data.shards, cfg.data.crop) == ("yours", "other.tar", "random")
    assert composed("experiment=yours", "data.folder=photos", *folder).data.folder == "photos"


def test_two_data_sets_are_a_mistake_beside_others() -> None:
    with pytest.raises(ConfigError) as error:
        composed("data.folder=photos", "data.shards=x.tar", "sed=1")
    assert [mistake.where for mistake in error.value.mistakes] == ["data.shards=x.tar data.folder=photos", "sed=1"]


@pytest.mark.parametrize("folder", ["nowhere", "photos/0.png"])
def test_a_folder_that_is_not_there_is_a_mistake_beside_others(folder: str) -> None:
    with pytest.raises(ConfigError) as error:
        composed(f"data.folder={folder}", "sed=1")
    assert [mistake.where for mistake in error.value.mistakes] == [f"data.folder={folder}", "sed=1"]


def test_commands_without_recipes_have_their_own_data() -> None:
    assert read_call("check", [SHARDS, "out=x"]).overrides == (SHARDS, "out=x")
    assert read_call("encode", [SHARDS, "out=x"]).overrides[0] == "experiment=own_images"
