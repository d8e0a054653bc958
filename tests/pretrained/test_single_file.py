"""A single file is told by its names and shapes, and becomes the model that it was made of."""

from __future__ import annotations

import gzip
import json
import os
import struct
import subprocess
import sys

import original_names
import pytest
import tiny_pipelines
import torch
from safetensors.torch import save_file

from diffusion_train.pretrained import conversion, diffusers_folder, origin, single_file
from diffusion_train.pretrained.single_file import Model, identify
from diffusion_train.pretrained.vocabulary import Vocabulary

diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")

TINY = {"sd15": "sd1", "sd2_v": "sd2", "sdxl": "sdxl"}
# Parameters of the published models.
SIZES = {
    "sd1": {"unet": 859_520_964, "vae": 83_653_863, "text_encoder": 123_060_480},
    "sd2": {"unet": 865_910_724, "vae": 83_653_863, "text_encoder": 340_387_840},
    "sdxl": {
        "unet": 2_567_463_684,
        "vae": 83_653_863,
        "text_encoder": 123_060_480,
        "text_encoder_2": 694_659_840,
    },
}


def load(folder, name):
    settings = json.loads((folder / name / "config.json").read_text())
    library = diffusers if "_class_name" in settings else transformers
    return getattr(library, settings.get("_class_name") or settings["architectures"][0]).from_pretrained(folder / name)


def models_on_meta(kind):
    settings = json.loads((single_file.LAYOUTS / f"{kind}.json").read_text())
    return {name: conversion.empty_model(settings[name]) for name in SIZES[kind]}


def write(path, weights, **metadata):
    """A file with such names and shapes, and without the data, of which the disk keeps nothing."""
    header, end = {}, 0
    for name, value in weights.items():
        start, end = end, end + 2 * value.numel()
        header[name] = {"dtype": "F16", "shape": list(value.shape), "data_offsets": [start, end]}
    text = json.dumps(header | {"__metadata__": metadata}).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    os.truncate(path, 8 + len(text) + end)
    return path


def save(path, weights):
    save_file({name: value.contiguous().clone() for name, value in weights.items()}, path)
    return path


@pytest.mark.parametrize("name", TINY)
def test_what_comes_out_is_what_went_in(name, tmp_path):
    folder = tiny_pipelines.make(name, tmp_path / "in")
    kind = diffusers_folder.kind(folder, "it")
    models = {part: load(folder, part) for part in diffusers_folder.WEIGHTS[kind]}
    file = save(tmp_path / "model.safetensors", original_names.single_file(models, TINY[name]))
    conversion.convert(file, folder, Vocabulary.find(str(folder), file), tmp_path / "out")
    for part, model in models.items():
        again = load(tmp_path / "out", part).state_dict()
        assert again.keys() == model.state_dict().keys()
        assert all(torch.equal(again[key], value) for key, value in model.state_dict().items())
    for tokenizer in diffusers_folder.TOKENIZERS[kind]:
        one, other = (transformers.CLIPTokenizer.from_pretrained(it / tokenizer) for it in (folder, tmp_path / "out"))
        text = ["a red apple!", "Kedi"]
        assert one(text, padding="max_length")["input_ids"] == other(text, padding="max_length")["input_ids"]


def test_a_file_is_converted_once_and_again_when_it_is_another(tmp_path):
    folder = tiny_pipelines.make("sd15", tmp_path / "in")
    weights = original_names.single_file({part: load(folder, part) for part in diffusers_folder.WEIGHTS["sd"]}, "sd1")
    file = save(tmp_path / "model.safetensors", weights)
    made = conversion.converted(file, folder, str(folder))
    assert diffusers_folder.checked(made, "it") == made
    (made / "mark").touch()
    assert conversion.converted(file, folder, str(folder)) == made
    assert (made / "mark").exists()
    moved = file.rename(tmp_path / "renamed.safetensors")
    assert conversion.converted(moved, folder, str(folder)) == made
    other = save(tmp_path / "model.safetensors", {**weights, "extra": torch.zeros(1)})
    assert conversion.converted(other, folder, str(folder)) != made
    assert not list(made.parent.glob(".tmp-*"))


@pytest.mark.parametrize("kind", SIZES)
def test_the_published_models_have_these_sizes_names_and_shapes(kind, tmp_path):
    models = models_on_meta(kind)
    assert {name: sum(p.numel() for p in model.parameters()) for name, model in models.items()} == SIZES[kind]
    weights = original_names.single_file(models, kind)
    assert identify(write(tmp_path / "it.safetensors", weights), "epsilon") == Model(kind, "epsilon", False)
    settings = json.loads((single_file.LAYOUTS / f"{kind}.json").read_text())
    for name, model in models.items():
        renamed = conversion.renamed(name, model, settings[name], weights)
        assert {k: v.shape for k, v in renamed.items()} == {k: v.shape for k, v in model.state_dict().items()}
    folder = single_file.layout(tmp_path / "it.safetensors", "epsilon")
    assert diffusers_folder.checked(folder, "it", weights=False) == folder
    assert diffusers_folder.kind(folder, "it") == ("sdxl" if kind == "sdxl" else "sd")


def test_stable_diffusion_2_must_say_what_it_predicts(tmp_path):
    weights = original_names.single_file(models_on_meta("sd2"), "sd2")
    silent = write(tmp_path / "silent.safetensors", weights)
    with pytest.raises(ValueError, match=r"add base\.prediction=epsilon or base\.prediction=v"):
        identify(silent)
    told = write(tmp_path / "told.safetensors", weights, **{"modelspec.prediction_type": "v"})
    assert identify(told) == Model("sd2", "v", False)
    with pytest.raises(ValueError, match=r"base\.prediction=epsilon, but .* states v"):
        identify(told, "epsilon")
    for prediction, side in {"epsilon": 64, "v": 96}.items():
        unet = json.loads((single_file.layout(silent, prediction) / "unet/config.json").read_text())
        assert unet["sample_size"] == side


def test_marks_of_trainers_are_read(tmp_path):
    weights = original_names.single_file(models_on_meta("sdxl"), "sdxl")
    marked = write(tmp_path / "it.safetensors", weights | {"v_pred": torch.empty(0), "ztsnr": torch.empty(0)})
    assert identify(marked) == Model("sdxl", "v", True)
    scheduler = json.loads((single_file.layout(marked) / "scheduler/scheduler_config.json").read_text())
    assert (scheduler["prediction_type"], scheduler["rescale_betas_zero_snr"]) == ("v_prediction", True)


@pytest.mark.parametrize(
    ("names", "hint"),
    [
        ({"lora_unet_down_blocks_0.lora_up.weight": (4, 4)}, "those of a LoRA"),
        ({"double_blocks.0.img_attn.qkv.weight": (4, 4)}, "FLUX"),
        ({"down_blocks.0.resnets.0.conv1.weight": (4, 4)}, "a single part"),
        ({"model.diffusion_model.input_blocks.0.0.weight": (320, 9, 3, 3)}, "inpainting"),
        ({"something": (1,)}, "its tensors do not have the names of Stable Diffusion 1, 2 or XL"),
    ],
    ids=["lora", "flux", "part", "inpainting", "unknown"],
)
def test_other_files_are_refused_by_what_they_are(names, hint, tmp_path):
    file = write(tmp_path / "it.safetensors", {name: torch.empty(shape) for name, shape in names.items()})
    with pytest.raises(ValueError, match=hint):
        identify(file)


def header(text: bytes, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(text) if length is None else length) + text


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<html>not found</html>",
        header(b"{}", 1 << 62),
        header(b"{}", 99 << 20),
        header(b"[]"),
        header(b'{"x": ' + b"[" * 100_000),
        header(b'{"__metadata__": {"diffusion_train": {}}}'),
        header(b'{"x": {"dtype": "F16", "shape": [1000000], "data_offsets": [0, 2000000]}}'),
    ],
    ids=["empty", "html", "too long", "longer than the file", "list", "deep", "nested metadata", "cut off"],
)
def test_a_file_that_is_not_whole_is_refused(content, tmp_path):
    file = tmp_path / "it.safetensors"
    file.write_bytes(content)
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        origin.kind(str(file))


def test_a_model_is_told_without_torch(tmp_path):
    file = write(tmp_path / "it.safetensors", {"lora_up": torch.empty(2, 2)})
    code = (
        "import sys; from diffusion_train.pretrained import origin; "
        f"print(origin.kind({str(file)!r}), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "file False\n"


def test_a_file_that_lacks_weights_is_refused(tmp_path):
    file = tmp_path / "it.safetensors"
    folder = tiny_pipelines.make("sd15", tmp_path / "in")
    weights = original_names.single_file({part: load(folder, part) for part in diffusers_folder.WEIGHTS["sd"]}, "sd1")
    weights.pop("model.diffusion_model.out.2.bias")
    with pytest.raises(ValueError, match=r"1 weights of its unet .* conv_out\.bias"):
        conversion.convert(save(file, weights), folder, Vocabulary.find(str(folder), file), tmp_path / "out")


def test_the_tokenizer_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for where in (None, str(tmp_path)):
        with pytest.raises(ValueError, match=rf"base\.tokenizer={where}: .*give a folder with CLIP's vocab\.json"):
            Vocabulary.find(where, tmp_path / "it.safetensors")


def test_open_clips_list_of_merges_gives_the_same_vocabulary(tmp_path):
    folder = tiny_pipelines.make("sd15", tmp_path / "in") / "tokenizer"
    whole = Vocabulary.find(str(folder), tmp_path)
    list_of_merges = tmp_path / "bpe.txt.gz"
    list_of_merges.write_bytes(gzip.compress("\n".join(["header", *whole.merges.split("\n")[1:-1]]).encode()))
    found = Vocabulary.find(str(list_of_merges), tmp_path)
    assert json.loads(found.tokens) == json.loads(whole.tokens)
    assert found.merges == whole.merges
