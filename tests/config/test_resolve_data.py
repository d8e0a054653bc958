"""The size of images and the batch follow from the images where a config leaves them open, and stay with the run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from omegaconf import open_dict

from diffusion_train import config
from diffusion_train.config.command_line.call import read_call
from diffusion_train.config.command_line.launch import first_pass
from diffusion_train.config.resolve_data import keep_choices, resolve_data, sizes_for
from diffusion_train.config.training_config import SETTINGS

pytestmark = pytest.mark.usefixtures("private_cache")


def composed(*arguments: str):
    cfg = first_pass(read_call("train", arguments))
    with open_dict(cfg):
        cfg.pop("hydra")
    cfg.trainer.precision = "32-true"
    return cfg


@pytest.mark.parametrize(
    ("sides", "num_samples", "sizes"),
    [
        ([[20, 16]], 1, (16, 1)),
        ([[90, 70], [30, 200], [31, 40]], 13, (24, 8)),
        ([[4000, 3000]], 10**6, (64, 16)),
        ([[3, 5]], 16, (8, 16)),
    ],
    ids=["one", "median", "photos", "tiny"],
)
def test_sizes_follow_from_the_images(sides, num_samples: int, sizes: tuple[int, int]) -> None:
    assert sizes_for(np.array(sides), num_samples) == sizes


def test_they_are_set_before_anything_is_built_and_what_is_given_stays(make_shards, tmp_path: Path, capsys) -> None:
    pattern = f"data.shards={make_shards(5, 5)[0]}"
    cfg = composed(pattern, f"run_dir={tmp_path / 'run'}")
    config.check(cfg, read=SETTINGS)
    assert cfg.data.image_size is None
    resolve_data(cfg)
    assert (cfg.data.image_size, cfg.data.batch_size) == (16, 4)
    assert config.build(cfg.data).transform().image_size == 16
    assert (
        "5 images; chose data.image_size=16, data.batch_size=4; training ignores their captions"
        in capsys.readouterr().err
    )
    chosen = composed(pattern, "data.image_size=24", f"run_dir={tmp_path / 'run'}")
    resolve_data(chosen)
    assert (chosen.data.image_size, chosen.data.batch_size) == (24, 4)
    assert "24" not in capsys.readouterr().err


def test_a_wrong_type_is_a_mistake_all_the_same(tmp_path: Path) -> None:
    cfg = composed("data.shards=x.tar", "data.image_size=large", f"run_dir={tmp_path}")
    with pytest.raises(config.ConfigError, match=r"data\.image_size"):
        config.check(cfg, read=SETTINGS)


@pytest.mark.parametrize("resume", ["auto", "never"])
def test_a_run_that_is_resumed_keeps_what_it_began_with(make_shards, tmp_path: Path, resume: str) -> None:
    arguments = (f"run_dir={tmp_path / 'run'}", f"resume={resume}")
    before = composed(f"data.shards={make_shards(5, 5)[0]}", *arguments)
    resolve_data(before)
    config.save_config(before, tmp_path / "run" / "config.yaml")
    now = composed(f"data.shards={make_shards(20, 20, 'more')[0]}", *arguments)
    resolve_data(now)
    assert now.data.batch_size == (4 if resume == "auto" else 16)


def test_a_home_is_expanded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    cfg = composed("experiment=ddpm_cifar_style", "data.shards='~/x-{0..3}.tar'", "run_dir=somewhere")
    resolve_data(cfg)
    assert cfg.data.shards == str(tmp_path / "x-{0..3}.tar")
    listed = composed(
        "experiment=openmoji", "data=shards", "data.shards={a: '~/a.tar', b: ['~/b.tar']}", "data.encoded='~/e'"
    )
    assert listed.data.shards == {"a": str(tmp_path / "a.tar"), "b": [str(tmp_path / "b.tar")]}
    assert listed.data.encoded == str(tmp_path / "e")
    texts = composed("experiment=openmoji", "callbacks.samples.prompts=['~/a']", "run_dir=somewhere")
    assert texts.callbacks.samples.prompts == ["~/a"]
    (tmp_path / "photos").mkdir()
    cfg = composed("experiment=ddpm_cifar_style", "data.folder='~/photos'", "run_dir=somewhere")
    resolve_data(cfg)
    assert cfg.data.shards.path == str(tmp_path / "photos")


def test_a_stream_cannot_be_measured(tmp_path: Path) -> None:
    cfg = composed("data=stream", "data.shards=x.tar", f"run_dir={tmp_path}")
    with pytest.raises(config.ConfigError, match=r"add data\.image_size=<pixels> data\.batch_size=<samples>"):
        resolve_data(cfg)


@pytest.mark.parametrize("resume", ["auto", "never"])
def test_a_resumed_run_keeps_what_it_has_measured(tmp_path: Path, resume: str) -> None:
    arguments = ("experiment=points", f"run_dir={tmp_path / 'run'}", f"resume={resume}", "compile=auto")
    before = composed(*arguments)
    before.compile, before.trainer.precision = True, "bf16-mixed"
    config.save_config(before, tmp_path / "run" / "config.yaml")
    now = composed(*arguments)
    now.trainer.precision = "auto"
    keep_choices(now)
    expected = (True, "bf16-mixed") if resume == "auto" else ("auto", "auto")
    assert (now.compile, now.trainer.precision) == expected
    given = composed("experiment=points", f"run_dir={tmp_path / 'run'}", "compile=false")
    keep_choices(given)
    assert (given.compile, given.trainer.precision) == (False, "32-true")


def test_compile_is_true_false_or_auto(tmp_path: Path) -> None:
    with pytest.raises(config.ConfigError, match="'compile' must be true or false, or auto, got 'maybe'"):
        composed("experiment=points", f"run_dir={tmp_path}", "compile=maybe")
