"""What the command asks for, before a model is loaded; `test_train.py` and others draw with it."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from diffusion_train.assembly import without_trigger
from diffusion_train.command.encode import check_settings
from diffusion_train.command.next_commands import sample_command
from diffusion_train.command.sample import decoded, file_names, opened, refuse, refuse_older
from diffusion_train.conditioner.base import Conditioner
from diffusion_train.config import ConfigError
from diffusion_train.config.command_line.arguments import parse
from diffusion_train.data.caption.prompt_list import read_prompts

ASK = {"num_samples": 1, "batch_size": None, "seed": 0, "out": "out", "prompts": [], "images": []} | {
    "negative_prompt": None
}


def asked(conditioner: str = "none.NoCondition", **settings: Any) -> DictConfig:
    node = {"_target_": f"diffusion_train.conditioner.{conditioner}"}
    guidance = {"scale": settings.pop("scale", 1.0)}
    return OmegaConf.create({"sample": ASK | settings, "conditioner": node, "guidance": guidance})


@pytest.mark.parametrize("text", [b"\xef\xbb\xbfred logo\r\n\r\n blue \r\n", b"red logo\nblue"])
def test_prompts_are_read_from_a_file_however_it_was_saved(tmp_path, text):
    (tmp_path / "p.txt").write_bytes(text)
    assert read_prompts(str(tmp_path / "p.txt")) == ["red logo", "blue"]


@pytest.mark.parametrize(("text", "told"), [(b"f\xfcr", "is not UTF-8"), (b" \n", "has no prompt")])
def test_a_file_without_prompts_is_named(tmp_path, text, told):
    (tmp_path / "p.txt").write_bytes(text)
    with pytest.raises(ValueError, match=rf"p\.txt {told}"):
        read_prompts(str(tmp_path / "p.txt"))


@pytest.mark.parametrize("wrong", [{"num_samples": 0}, {"num_samples": -1}, {"batch_size": 0}, {"seed": -5}])
def test_impossible_numbers_are_refused(wrong):
    refuse(asked())
    [(name, value)] = wrong.items()
    with pytest.raises(ConfigError, match=f"{name}={value}"):
        refuse(asked(**wrong))


@pytest.mark.parametrize("out", ["file", "file/below", "n" * 300])
def test_an_out_that_cannot_be_made_is_refused_before_anything_is_drawn(tmp_path, out):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"cannot be written to .*; give another out"):
        refuse(asked(out=str(tmp_path / out)))


@pytest.mark.parametrize(
    ("conditioner", "setting", "is_read"),
    [
        ("none.NoCondition", {"prompts": ["red"]}, False),
        ("none.NoCondition", {"prompts": "prompts.txt"}, False),
        ("none.NoCondition", {"prompts": [""]}, True),  # none
        ("none.NoCondition", {"negative_prompt": "red"}, False),
        ("none.NoCondition", {"images": ["a.png"]}, False),
        ("text.text_conditioner.Text", {"prompts": ["red"], "negative_prompt": "blue"}, True),
        ("text.text_conditioner.Text", {"images": ["a.png"]}, False),
        ("packaged_text.PackagedText", {"images": ["a.png"]}, False),  # an encoder, not a conditioner
        ("low_res.LowRes", {"images": [__file__]}, True),
        ("low_res.LowRes", {"prompts": ["red"]}, False),
    ],
)
def test_prompts_and_images_are_for_runs_that_read_them(conditioner, setting, is_read):
    [name] = list(setting)[:1]
    with nullcontext() if is_read else pytest.raises(ConfigError, match=f"{name}=.*\n.*reads no"):
        refuse(asked(conditioner, **setting))


@pytest.mark.parametrize("images", [["gone.png"], "gone.png"])
def test_an_image_that_does_not_exist_is_one_mistake(images):
    with pytest.raises(ConfigError, match=r"images=gone\.png\n +no such file"):
        refuse(asked("low_res.LowRes", images=images))


def test_a_file_that_is_no_image_is_named(tmp_path):
    (tmp_path / "a.png").write_bytes(b"text")
    with pytest.raises(ValueError, match=r"images=.*a\.png: "):
        decoded(tmp_path / "a.png", None)


@pytest.mark.parametrize("scale", [3.0, 0.0])
def test_guidance_without_a_condition_is_refused(scale):
    with pytest.raises(ConfigError, match=rf"guidance\.scale={scale:g}\n +has no effect, .*\(conditioner=none\)"):
        refuse(asked(scale=scale))
    refuse(asked("label.Label", scale=scale))


def test_of_several_conditioners_one_that_reads_a_prompt_is_enough():
    parts = {name: {"_target_": f"diffusion_train.conditioner.{name}"} for name in ("low_res.LowRes", "label.Label")}
    cfg = asked("joint.Joint", prompts=["3"], images=[__file__])
    cfg.conditioner.parts = {"a": parts["low_res.LowRes"], "b": parts["label.Label"]}
    refuse(cfg)


def test_out_holds_nothing_else(tmp_path):
    for name in [*file_names(2, 2), "2024_photo_001.png", "grid.png"]:
        (tmp_path / name).touch()
    refuse_older(tmp_path, file_names(4, 2))
    with pytest.raises(ValueError, match=r"holds samples of another command \(0000_001\.png\)"):
        refuse_older(tmp_path, file_names(2, 1))


def test_latents_do_not_go_among_other_shards(tmp_path):
    cfg = OmegaConf.create({"data": {"encoded": None}, "out": str(tmp_path), "encode_batch_size": 1})
    for name in ("latents-1.tar", "text-1.tar"):
        (tmp_path / name).touch()
    check_settings(cfg)
    (tmp_path / "images-000000.tar").touch()
    with pytest.raises(ConfigError, match=r"contains other shards \(images-000000\.tar\)"):
        check_settings(cfg)


class OfAUser(Conditioner):
    def __init__(self) -> None:
        super().__init__()
        self.reads_captions = True


def test_a_conditioner_of_a_user_is_given_what_is_asked_for(monkeypatch):
    monkeypatch.setattr("diffusion_train.assembly.locate", lambda target: OfAUser)
    refuse(asked(prompts=["red"], images=[__file__], negative_prompt=2024))


def test_the_command_that_training_prints_runs_as_printed(tmp_path):
    folder = tmp_path / "run=1,lr=1e-3" / "it's [a] {b}"
    cfg = OmegaConf.create({"callbacks": {"samples": {"prompts": ["a cat", 'the "best" $1']}}})
    words = shlex.split(sample_command(cfg, folder))
    overrides, mistakes = parse(words[2:])
    assert not mistakes
    assert [override.value() for override in overrides] == [str(folder), ["a cat", 'the "best" $1'], 4]


@pytest.mark.parametrize(
    ("prompts", "shown"),
    [([], ["zyx"]), ([""], ["zyx"]), (["a cat"], ["zyx", "a cat"]), (["a zyx cat", "a cat"], ["a zyx cat", "a cat"])],
)
def test_the_command_that_training_prints_has_the_trigger_word(prompts, shown):
    cfg = branded(prompts)
    overrides, _ = parse(shlex.split(sample_command(cfg, Path("run")))[2:])
    assert overrides[1].value() == shown


def test_prompts_without_the_trigger_word_are_warned_about():
    prompts = ["a zyx cat", "a cat", "", "a dog"]
    told = without_trigger(branded(), prompts, "prompts")
    assert told.startswith("prompts: 2 of 4 prompts lack the trigger word 'zyx', for instance 'a cat'")
    assert without_trigger(branded(), prompts[:1], "prompts") is None
    assert without_trigger(OmegaConf.create({}), prompts, "prompts") is None


def branded(prompts: Sequence[str] = ()) -> DictConfig:
    samples = {"samples": {"prompts": list(prompts)}}
    return OmegaConf.create({"callbacks": samples, "data": {"captions": {"trigger": "zyx"}}})


@pytest.mark.parametrize("channels_last", [False, True])
def test_the_network_has_the_memory_format_of_training(monkeypatch, channels_last):
    pipeline = SimpleNamespace(network=nn.Conv2d(2, 3, 3))
    monkeypatch.setattr("diffusion_train.command.sample.load_pipeline", lambda *_, **__: pipeline)
    network: Any = opened(OmegaConf.create({"sample": {"run": "run"}, "channels_last": channels_last})).network
    assert network.weight.is_contiguous(memory_format=torch.channels_last) is channels_last
