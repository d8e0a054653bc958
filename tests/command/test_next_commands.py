"""The commands that a command prints for what comes next; `tests/test_brand_images.py` runs them."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from diffusion_train.command.next_commands import after_check, after_encode, after_sampling
from diffusion_train.config.command_line.arguments import given

SHARDS = "data.shards='a-{0..9}.tar'"


def typed(monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    monkeypatch.setattr(sys, "argv", ["diffusion-train", *words])


def of_check(pretrained: str | None, kind: str = "sd", conditioner: str = "none.NoCondition"):
    parts = {"conditioner": {"_target_": f"diffusion_train.conditioner.{conditioner}"}}
    return OmegaConf.create({"pretrained": pretrained, "base_record": {"kind": kind}, **parts})


def test_words_of_a_command_are_given_again_quoted_and_without_secrets(monkeypatch):
    typed(monkeypatch, "encode", "--config-dir", "my conf", SHARDS, "out=x", "+data.storage.hub_token=abc", "seed=1")
    words = given(lambda key: key != "out")
    assert words[:3] == ["--config-dir", '"my conf"', f'"{SHARDS}"']
    assert shlex.split(" ".join(words[3:])) == ["+data.storage.hub_token=***", "seed=1"]


def test_check_names_what_trains_on_its_data(monkeypatch):
    typed(monkeypatch, "check", "pretrained=sd", SHARDS, "out=x", "data.holdout=0.25", "ignore=[tiny-image]")
    data = f'pretrained=sd "{SHARDS}" data.holdout=0.25'
    train = f"  python train.py experiment=brand {data}"
    encode = f"  diffusion-train encode experiment=brand {data} out=encoded"
    assert after_check(of_check("sd"))[1::2] == [encode, train]
    assert after_check(of_check("sd", "run"))[1:] == [train]


@pytest.mark.parametrize(("conditioner", "recipe"), [("none.NoCondition", ""), ("text.Text", "own_images_with_text")])
def test_without_a_model_check_names_the_recipe_of_own_images(monkeypatch, conditioner, recipe):
    typed(monkeypatch, "check", SHARDS, "out=x", "conditioner=packaged_text")
    experiment = f" experiment={recipe}" * bool(recipe)
    assert after_check(of_check(None, conditioner=conditioner))[1] == f'  python train.py{experiment} "{SHARDS}"'


def test_encode_names_the_training_that_reads_its_shards(monkeypatch):
    typed(monkeypatch, "encode", "experiment=sd15_lora", SHARDS, "out=x", "encode_batch_size=2", "trainer=cpu")
    assert after_encode(Path("x"))[1] == f'  python train.py experiment=sd15_lora "{SHARDS}" trainer=cpu data.encoded=x'


def test_a_network_that_other_tools_do_not_know_is_not_exported():
    cfg = OmegaConf.create({"network": {"_target_": "diffusion_train.network.unet.UNet"}})
    cfg.adapter = {"_target_": "diffusion_train.adapter.none.NoAdapter"}
    assert after_sampling(cfg, Path("run")) == []
