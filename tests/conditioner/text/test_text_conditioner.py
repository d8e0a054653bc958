"""Kept embeddings, on tiny random CLIP and T5 encoders."""

from __future__ import annotations

import shutil
import warnings

import pytest
import torch

from diffusion_train.conditioner.clip_text import CLIPText
from diffusion_train.conditioner.t5 import T5
from diffusion_train.conditioner.text.text_conditioner import Text

transformers = pytest.importorskip("transformers")
CAPTIONS = ["a red apple", "flag of France", "grinning face", "cat", "a dog of a red cat"]


@pytest.fixture(params=["clip", "t5"])
def make(request, clip_folder, t5_folder):
    if request.param == "clip":
        return lambda: Text(CLIPText(str(clip_folder), 10, "text_encoder", "tokenizer"))
    return lambda: Text(T5(str(t5_folder), 10))


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_padding_is_fixed_and_absence_is_the_empty_caption(make):
    text = make()
    cond, null = text({"caption": CAPTIONS}), text.null(3)
    assert cond["text"].shape == (5, 10, 8)
    assert cond["text"].dtype == torch.float32
    assert ("text_mask" in cond) != text.encoder.padded
    if not text.encoder.padded:
        assert cond["text_mask"].shape == (5, 10)
        assert (cond["text"][~cond["text_mask"]] == 0).all()
    assert same(null, text({"caption": [""] * 3}))


def test_warm_up_is_kept_for_the_next_run_and_needs_no_model_then(make, cache, monkeypatch):
    fresh = make()(batch := {"caption": CAPTIONS})
    first = make()
    first.warm_up(CAPTIONS)
    assert len(list((cache / "text").iterdir())) == 1
    monkeypatch.setattr("diffusion_train.conditioner.text.transformers_encoder.TransformersEncoder._load", None)
    second = make()
    second.warm_up(CAPTIONS)
    assert same(first(batch), second(batch))
    assert same(first.null(1), second.null(1))
    for name, value in fresh.items():
        torch.testing.assert_close(value, first(batch)[name])


def test_a_row_does_not_change_with_its_neighbours(make):
    one, all_ = make()({"caption": CAPTIONS[1:2]}), make()({"caption": CAPTIONS})
    for name, value in one.items():
        torch.testing.assert_close(value[0], all_[name][1])
    text = make()
    alone = text({"caption": CAPTIONS[1:2]})["text"]
    assert torch.equal(text({"caption": CAPTIONS})["text"][1:2], alone)


def test_nothing_of_the_encoder_is_trained_or_saved(make):
    text = make()
    text({"caption": CAPTIONS})
    assert not list(text.parameters())
    assert not text.state_dict()


def test_conditions_can_be_trained_on_whatever_context_first_asked_for_them(make):
    plain = make()({"caption": CAPTIONS})
    text = make()
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        text({"caption": CAPTIONS})
    cond = text({"caption": CAPTIONS})
    assert same(plain, cond)
    torch.nn.Linear(8, 2)(cond["text"]).sum().backward()


def test_embedding_leaves_the_global_generator_alone(make):
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    make()({"caption": CAPTIONS})
    assert torch.equal(torch.rand(4), expected)


def test_conditions_take_the_precision_of_the_conditioner(make):
    cond = make().double()({"caption": CAPTIONS})
    assert cond["text"].dtype == torch.float64
    assert cond.get("text_mask", torch.ones(1).bool()).dtype == torch.bool


def test_long_captions_are_cut_counted_and_reported_once(make):
    text = make()
    long = "red apple " * 20
    with pytest.warns(UserWarning, match="2 captions are longer than the text encoder's 10 tokens"):
        text.warm_up([long, long, long + "x", "cat"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        text({"caption": [long, long + "y"]})
    assert len(text.long_captions) == 3
    again = make()
    with pytest.warns(UserWarning, match="2 captions"):
        again.warm_up([long, long + "x"])


def test_clip_is_read_as_stable_diffusion_reads_it(clip_folder):
    model = transformers.CLIPTextModel.from_pretrained(clip_folder / "text_encoder").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(clip_folder / "tokenizer")
    ids = tokenizer(CAPTIONS, padding="max_length", max_length=10, truncation=True, return_tensors="pt").input_ids
    with torch.no_grad():
        expected = model(ids)
    cond = Text(CLIPText(str(clip_folder), 10, "text_encoder", "tokenizer"))({"caption": CAPTIONS})
    torch.testing.assert_close(cond["text"], expected.last_hidden_state)
    torch.testing.assert_close(cond["pooled"], expected.pooler_output)
    assert "text_mask" not in cond  # Stable Diffusion attends to the padding too


def test_t5_equals_padded_and_masked_attention(t5_folder):
    model = transformers.T5EncoderModel.from_pretrained(t5_folder).eval()
    tokens = transformers.AutoTokenizer.from_pretrained(t5_folder)(
        CAPTIONS, padding="max_length", max_length=10, truncation=True, return_tensors="pt"
    )
    with torch.no_grad():
        expected = model(tokens.input_ids, attention_mask=tokens.attention_mask).last_hidden_state
    cond = Text(T5(str(t5_folder), 10))({"caption": CAPTIONS})
    mask = tokens.attention_mask.bool()
    assert torch.equal(cond["text_mask"], mask)
    torch.testing.assert_close(cond["text"][mask], expected[mask])
    assert "pooled" not in cond


def test_other_weights_lengths_or_tokenizers_never_meet_in_a_cache(t5_folder, tmp_path):
    copy = shutil.copytree(t5_folder, tmp_path / "copy")
    fingerprints = [T5(str(t5_folder), 10).fingerprint, T5(str(copy), 10).fingerprint, T5(str(copy), 9).fingerprint]
    weights = bytearray((copy / "model.safetensors").read_bytes())
    weights[-2] ^= 1
    text = (copy / "tokenizer_config.json").read_bytes() + b"\n"
    for name, content in {"tokenizer_config.json": text, "model.safetensors": weights}.items():
        (copy / name).write_bytes(content)
        fingerprints.append(T5(str(copy), 10).fingerprint)
    assert fingerprints[0] == fingerprints[1]
    assert len(set(fingerprints)) == 4


def test_folders_that_cannot_be_used_are_named(tmp_path, clip_folder, t5_folder):
    with pytest.raises(ValueError, match="no such folder"):
        T5(str(tmp_path / "nothing"))
    shutil.copytree(t5_folder, tmp_path / "pickled", ignore=shutil.ignore_patterns("*.safetensors"))
    (tmp_path / "pickled" / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ValueError, match=r"holds no \.safetensors file"):
        T5(str(tmp_path / "pickled")).check_weights()
    too_long = Text(CLIPText(str(clip_folder), 11, "text_encoder", "tokenizer"))
    with pytest.raises(ValueError, match="max_length=11: must be at most the encoder's 10 positions"):
        too_long({"caption": ["cat"]})
