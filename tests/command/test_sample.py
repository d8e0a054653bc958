"""What the command asks for, before a model is loaded; `test_train.py` and others draw with it."""

from __future__ import annotations

import pytest
from omegaconf import OmegaConf

from diffusion_train.command.encode import refuse as refuse_encoding
from diffusion_train.command.sample import file_names, read_prompts, refuse, refuse_older
from diffusion_train.config import ConfigError

ASK = {"num_samples": 1, "batch_size": None, "seed": 0, "out": "out"}


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
    refuse(OmegaConf.create(ASK))
    [(name, value)] = wrong.items()
    with pytest.raises(ConfigError, match=f"{name}={value}"):
        refuse(OmegaConf.create({**ASK, **wrong}))


def test_out_is_a_folder_that_holds_nothing_else(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="is a file"):
        refuse(OmegaConf.create({**ASK, "out": str(tmp_path / "file")}))
    for name in [*file_names(2, 2), "2024_photo_001.png", "grid.png"]:
        (tmp_path / name).touch()
    refuse_older(tmp_path, file_names(4, 2))
    with pytest.raises(ValueError, match=r"holds samples of another command \(0000_001\.png\)"):
        refuse_older(tmp_path, file_names(2, 1))


def test_latents_do_not_go_among_other_shards(tmp_path):
    cfg = OmegaConf.create({"data": {"encoded": None}, "out": str(tmp_path), "encode_batch_size": 1})
    for name in ("latents-1.tar", "text-1.tar"):
        (tmp_path / name).touch()
    refuse_encoding(cfg)
    (tmp_path / "images-000000.tar").touch()
    with pytest.raises(ConfigError, match=r"holds other shards \(images-000000\.tar\)"):
        refuse_encoding(cfg)
