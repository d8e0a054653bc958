"""SDXL's two texts and its sizes; that they are what diffusers gives is shown in tests/pretrained."""

from __future__ import annotations

import json
import shutil

import pytest
import tiny_pipelines
import torch

from diffusion_train.conditioner.base import drop
from diffusion_train.conditioner.sdxl import SDXL

pytest.importorskip("diffusers")
pytest.importorskip("transformers")
CAPTIONS = ["a red apple", "", "dog " * 100, "a cat"]
X = torch.zeros(4, 3, 64, 48)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_pipelines.sdxl(tmp_path_factory.mktemp("sdxl"))


@pytest.fixture
def sdxl(folder):
    return SDXL(str(folder))


def test_what_was_warmed_up_has_the_same_bits_and_needs_no_model(folder, sdxl, cache, monkeypatch):
    with pytest.warns(UserWarning, match="1 captions are longer than the text encoder's 77 tokens"):
        fresh = sdxl({"caption": CAPTIONS, "x": X})
    with pytest.warns(UserWarning, match="1 captions"):
        SDXL(str(folder)).warm_up(CAPTIONS)
    assert len(list((cache / "text").iterdir())) == 1
    monkeypatch.setattr("diffusion_train.conditioner.text.transformers_encoder.TransformersEncoder._load", None)
    with pytest.warns(UserWarning, match="1 captions"):
        kept = SDXL(str(folder))({"caption": CAPTIONS, "x": X})
    assert fresh.keys() == kept.keys() == {"text", "pooled", "size"}
    assert all(torch.equal(fresh[name], kept[name]) for name in fresh)
    assert fresh["text"].shape == (4, 77, 24 + 40)
    assert fresh["pooled"].shape == (4, 48)


def test_more_captions_than_are_embedded_at_once(sdxl):
    captions = [f"cat {number}" for number in range(70)]
    size = torch.tensor([[64, 64]] * 70)
    together = sdxl({"caption": captions, "target_size": size})
    alone = sdxl({"caption": captions[67:68], "x": X[:1]})
    assert torch.equal(together["text"][67:68], alone["text"])
    assert len({tuple(row.tolist()) for row in together["pooled"]}) == 70


def test_sizes_come_from_the_batch_or_are_those_of_the_result(sdxl):
    batch = {"caption": CAPTIONS, "x": X}
    sizes = {"original_size": torch.tensor([[100, 90]] * 4), "crop": torch.tensor([[3, n] for n in range(4)])}
    assert sdxl(batch)["size"].tolist() == [[64, 48, 0, 0, 64, 48]] * 4
    assert sdxl(batch | sizes)["size"].tolist() == [[100, 90, 3, n, 64, 48] for n in range(4)]
    other = {"target_size": torch.tensor([[32, 16]] * 4)}
    assert sdxl(batch | other)["size"].tolist() == [[32, 16, 0, 0, 32, 16]] * 4
    with pytest.raises(ValueError, match="SDXL needs 'target_size'"):
        sdxl({"caption": CAPTIONS})


def test_sizes_are_exact_in_any_precision(sdxl):
    cond = sdxl.bfloat16()({"caption": ["cat"], "target_size": torch.tensor([[1016, 1021]])})
    assert cond["size"].tolist() == [[1016, 1021, 0, 0, 1016, 1021]]
    assert cond["text"].dtype == torch.bfloat16


def test_no_prompt_is_zeros_and_keeps_its_sizes(sdxl):
    null = sdxl.null(4)
    assert null.keys() == {"text", "pooled"}
    assert not any(value.any() for value in null.values())
    cond = sdxl({"caption": ["cat"] * 4, "x": X})
    dropped = drop(cond, null, torch.tensor([True, False, True, False]))
    assert dropped["text"].flatten(1).any(1).tolist() == [True, False, True, False]
    assert torch.equal(dropped["size"], cond["size"])


def test_no_prompt_is_the_empty_one_where_the_pipeline_says_so(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    index = json.loads((copy / "model_index.json").read_text())
    (copy / "model_index.json").write_text(json.dumps(index | {"force_zeros_for_empty_prompt": False}))
    sdxl = SDXL(str(copy))
    empty = sdxl({"caption": [""] * 2, "x": X[:2]})
    assert empty["text"].any()
    assert all(torch.equal(value, empty[name]) for name, value in sdxl.null(2).items())


def test_either_encoder_decides_what_is_kept(folder, tmp_path):
    fingerprints = {SDXL(str(folder)).encoder.fingerprint}
    for part in ("text_encoder/model.safetensors", "tokenizer_2/vocab.json"):
        copy = shutil.copytree(folder, tmp_path / part.replace("/", "_"))
        content = bytearray((copy / part).read_bytes())
        content[-2] ^= 1
        (copy / part).write_bytes(content)
        fingerprints.add(SDXL(str(copy)).encoder.fingerprint)
    assert len(fingerprints) == 3


def test_a_folder_that_is_no_pipeline_is_named(folder):
    with pytest.raises(ValueError, match=r"conditioner\.source=.*text_encoder: holds no model_index\.json"):
        SDXL(str(folder / "text_encoder"))
