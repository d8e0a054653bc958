from __future__ import annotations

import pytest
import torch

from diffusion_train.conditioner.text.encoder import Embedding
from diffusion_train.conditioner.text.text_store import TextStore


def row(length, value=0.0, truncated=False):
    return Embedding(torch.full((length, 4), value), torch.full((2,), value), truncated)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "text" / "rows.safetensors"


def test_rows_come_back_bit_for_bit(path):
    store = TextStore(path)
    rows = {
        caption: Embedding(torch.randn(n, 4), torch.randn(2), n > 2)
        for n, caption in enumerate(["", "a", "kedi 🐈", "\ud800"], 1)
    }
    for caption, embedding in rows.items():
        store.add(caption, embedding)
    store.save()
    again = TextStore(path)
    for caption, embedding in rows.items():
        found = again.get(caption)
        assert torch.equal(found.text, embedding.text)
        assert torch.equal(found.pooled, embedding.pooled)
        assert found.truncated == embedding.truncated
    assert again.get("b") is None
    assert again.num_bytes == store.num_bytes


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "text"])
def test_a_damaged_file_is_made_again(path, damage, caplog):
    store = TextStore(path)
    store.add("a", row(3, 1.0))
    store.save()
    whole = path.read_bytes()
    flipped = whole[:-5] + bytes([whole[-5] ^ 1]) + whole[-4:]
    path.write_bytes({"cut": whole[:-7], "flipped": flipped, "empty": b"", "text": b"<html>" * 9}[damage])
    again = TextStore(path)
    assert again.get("a") is None
    assert "is damaged and will be created again" in caplog.text
    again.add("a", row(3, 1.0))
    again.save()
    assert TextStore(path).get("a") is not None


def test_memory_is_bounded_and_what_is_asked_for_stays(tmp_path):
    store = TextStore(tmp_path / "x", max_bytes=3 * row(1).num_bytes)
    for caption in "abc":
        store.add(caption, row(1))
    store.get("a")
    store.add("d", row(1))
    assert [caption for caption in "abcd" if store.get(caption)] == ["a", "c", "d"]


def test_adding_a_caption_again_takes_no_more_memory(tmp_path):
    store = TextStore(tmp_path / "x")
    for length in (5, 2):
        store.add("a", row(length))
    assert store.num_bytes == row(2).num_bytes


def held(store):
    """Bytes of all that the rows keep alive."""
    tensors = [tensor for row in store.rows.values() for tensor in (row.text, row.pooled)]
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(storages.values())


def test_rows_keep_nothing_alive_but_themselves(path):
    store = TextStore(path)
    for caption, text in zip("abcdefgh", torch.randn(8, 3, 4), strict=True):
        store.add(caption, Embedding(text, torch.zeros(2), False))
    store.save()
    few = TextStore(path, max_bytes=3 * store.num_bytes // 8)
    assert len(few.rows) == 3
    assert held(few) == few.num_bytes == 3 * held(store) // 8 == 3 * store.num_bytes // 8


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    store = TextStore(tmp_path / "file" / "rows.safetensors")
    store.add("a", row(1))
    store.save()
    assert "cannot store text embeddings for the next run" in caplog.text
