"""Embeddings of captions made before: what is taken from them equals what is computed, and nothing stale is taken."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import tiny_pipelines
import torch
from tqdm import tqdm

from diffusion_train.conditioner.clip_text import CLIPText
from diffusion_train.conditioner.joint import Joint
from diffusion_train.conditioner.sdxl import SDXL
from diffusion_train.conditioner.text.text_conditioner import Text
from diffusion_train.data.caption.captions import Captions
from diffusion_train.data.caption.source import TextMember
from diffusion_train.data.precomputed.entries import Entries, EntryWriter
from diffusion_train.data.precomputed.texts import PrecomputedTexts
from diffusion_train.encode.caption_embeddings import embed_captions
from diffusion_train.encode.precomputed_data import embeddings
from diffusion_train.encode.rank import Rank

pytest.importorskip("diffusers")


def texts(folder: Path, captions: Sequence[str], text: Text, world_size: int = 1) -> int:
    """-> how many were embedded, by all processes."""
    stored = PrecomputedTexts(Entries(folder), text.encoder.fingerprint)
    total = 0
    for rank in range(world_size):
        with EntryWriter(folder, "text") as writer, tqdm(disable=True) as bar:
            total += embed_captions(captions, text.encoder, stored, writer, Rank(rank, world_size), bar)["encoded"]
    return total


@pytest.fixture
def captions() -> Captions:
    return Captions(TextMember(lines=True), templates=["a photo of {caption}", "{caption}"])


def test_drawn_captions_and_their_absence_are_equal_and_no_encoder_is_loaded(
    out: Path, pipeline: Path, captions: Captions, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    lines = [b"a red apple\nred apple", b"flag", b"cat dog"]
    every = {"", *(caption for line in lines for caption in captions.every({"txt": line}, "k"))}
    monkeypatch.setenv("DIFFUSION_TRAIN_CACHE", str(out.parent / "no cache"))

    def make() -> Text:
        return Text(CLIPText(str(pipeline), 77, "text_encoder", "tokenizer"))

    online, cached = make(), make()
    assert texts(out, [*every, *every], make(), world_size=3) == len(every) == 9
    assert texts(out, [*every, "new"], make()) == 1
    cached.use_precomputed(embeddings(Entries(out), cached.encoder))
    expected = []
    for epoch in range(4):
        drawn = [captions({"txt": lines[index % 3]}, f"k{index}", epoch, index) for index in range(12)]
        expected.append((drawn, online({"caption": drawn}), online.null(2)))
    monkeypatch.setattr(CLIPText, "embed", None)
    cached.warm_up(every)
    for drawn, cond, null in expected:
        for name, value in cached({"caption": drawn}).items():
            assert torch.equal(value, cond[name])
        assert torch.equal(cached.null(2)["text"], null["text"])
    assert not list((out.parent / "no cache").glob("text/*"))  # they are kept where they came from
    assert not caplog.records
    monkeypatch.undo()
    cached.warm_up([*every, "other", "others"])
    assert "no embeddings of 2 captions" in caplog.text


def test_damaged_and_foreign_embeddings_are_made_again(
    out: Path, pipeline: Path, damage: Callable[[Path], None]
) -> None:
    text = Text(CLIPText(str(pipeline), 77, "text_encoder", "tokenizer"))
    texts(out, ["cat", "dog"], text)
    shorter = Text(CLIPText(str(pipeline), 20, "text_encoder", "tokenizer"))
    assert list(embeddings(Entries(out), shorter.encoder)(["cat"])) == []
    assert texts(out, ["cat"], shorter) == 1
    [shard, _] = sorted(out.glob("*.tar"), key=lambda path: path.stat().st_mtime)
    found = embeddings(Entries(out), text.encoder)
    damage(shard)
    assert len(dict(found(["cat", "dog"]))) == 1


def test_every_part_that_embeds_is_known(tmp_path: Path, pipeline: Path) -> None:
    sdxl = SDXL(str(tiny_pipelines.sdxl(tmp_path)))
    text = Text(CLIPText(str(pipeline), 77, "text_encoder", "tokenizer"))
    assert Joint({"a": sdxl, "b": text}).texts() == [sdxl.text, text]
