"""Tiny text encoders with random weights, saved as the real ones are."""

from __future__ import annotations

import pytest
import torch

WORDS = ["red", "apple", "flag", "of", "france", "grinning", "face", "a", "cat", "dog"]


@pytest.fixture(autouse=True)
def cache(private_cache):
    return private_cache


def save_tokenizer(folder, specials, template, **names):
    tokenizers = pytest.importorskip("tokenizers")
    transformers = pytest.importorskip("transformers")
    vocabulary = {word: number for number, word in enumerate([*specials, *WORDS])}
    fast = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token=specials[-1]))
    fast.normalizer = tokenizers.normalizers.Lowercase()
    fast.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    fast.post_processor = tokenizers.processors.TemplateProcessing(
        single=template, special_tokens=[(special, vocabulary[special]) for special in specials]
    )
    transformers.PreTrainedTokenizerFast(tokenizer_object=fast, unk_token=specials[-1], **names).save_pretrained(folder)
    return vocabulary


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory):
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("clip")
    vocabulary = save_tokenizer(
        folder / "tokenizer", ["<s>", "</s>", "<u>"], "<s> $A </s>", bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )
    torch.manual_seed(0)
    config = transformers.CLIPTextConfig(
        vocab_size=len(vocabulary),
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=10,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    transformers.CLIPTextModel(config).save_pretrained(folder / "text_encoder")
    return folder


@pytest.fixture(scope="session")
def t5_folder(tmp_path_factory):
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("t5")
    vocabulary = save_tokenizer(folder, ["<pad>", "</s>", "<unk>"], "$A </s>", eos_token="</s>", pad_token="<pad>")
    torch.manual_seed(0)
    config = transformers.T5Config(
        vocab_size=len(vocabulary), d_model=8, d_kv=4, d_ff=16, num_layers=2, num_heads=2, decoder_start_token_id=0
    )
    transformers.T5EncoderModel(config).save_pretrained(folder)
    return folder
