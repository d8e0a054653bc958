from __future__ import annotations

import json
import pickle
import time
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusion_train.data.caption.captions import MAX_LISTED, Captions
from diffusion_train.data.caption.csv_column import CsvColumn
from diffusion_train.data.caption.fault import BlankCaption, CaptionError, MissingCaption
from diffusion_train.data.caption.source import JsonMember, TextMember
from diffusion_train.data.caption.tags import Tags

LINES = {"txt": b"one\n two \n\nthree\n"}
TEMPLATES = ("a photo of {trigger}, {caption}", "{caption}")


def of_lines(**options):
    return Captions(TextMember(lines=True), **options)


def all_drawn(captions, members, n=200):
    return {captions(members, "k", epoch, sample) for epoch in range(n // 20) for sample in range(20)}


def test_by_default_the_text_beside_the_image_is_the_caption():
    captions = Captions(TextMember())
    assert captions({"txt": b" a {cat}\n"}, "k", 3, 4) == "a {cat}"
    assert captions.extensions == ("txt",)


@pytest.mark.parametrize(
    ("choose", "drawn"),
    [("draw", {"one", "two", "three"}), ("first", {"one"}), ("join", {"one, two, three"})],
)
def test_of_several_captions_one_is_drawn_or_the_first_or_all_are_taken(choose, drawn):
    assert all_drawn(of_lines(choose=choose), LINES) == drawn


def test_captions_and_templates_are_drawn_as_often_and_independently():
    captions, n = of_lines(templates=[*TEMPLATES, "{caption}!"], trigger="sks"), 9000
    seen = Counter(captions(LINES, "k", epoch, sample) for epoch in range(90) for sample in range(100))
    assert len(seen) == 9
    assert all(abs(count - n / 9) < 4 * (n * 8 / 81) ** 0.5 for count in seen.values())


def test_each_epoch_of_one_sample_draws_anew():
    captions, n = of_lines(), 1500
    seen = [captions(LINES, "k", epoch, 7) for epoch in range(n)]
    assert all(abs(count - n / 3) < 4 * (n * 2 / 9) ** 0.5 for count in Counter(seen).values())
    repeated = sum(a == b for a, b in pairwise(seen))
    assert abs(repeated / n - 1 / 3) < 4 * (2 / 9 / n) ** 0.5


@pytest.mark.parametrize("choose", ["draw", "first", "join"])
@pytest.mark.parametrize(
    "tags", [Tags(), Tags(shuffle=True), Tags(dropout=0.5)], ids=["as they stand", "order", "dropout"]
)
@pytest.mark.parametrize("members", [LINES, {"txt": b" \n"}, {}], ids=["lines", "blank", "none"])
def test_the_plain_template_draws_what_others_are_made_around(choose, tags, members):
    plain, around = (
        of_lines(choose=choose, tags=tags, missing="empty", templates=[text]) for text in ("{caption}", "({caption})")
    )
    places = [(epoch, sample) for epoch in range(4) for sample in range(20)]
    drawn = [plain(members, "k", *place) for place in places]
    assert [around(members, "k", *place) for place in places] == [text and f"({text})" for text in drawn]


def test_a_caption_is_a_function_of_seed_epoch_and_sample():
    def drawn(seed, samples, epochs=range(4)):
        captions = of_lines(templates=TEMPLATES, trigger="sks", tags=Tags(" ", shuffle=True), seed=seed, choose="join")
        return {(epoch, sample): captions(LINES, "k", epoch, sample) for sample in samples for epoch in epochs}

    whole = drawn(0, range(50))
    late = drawn(0, reversed(range(30, 50)), epochs=[3, 2])
    assert late.items() <= whole.items()
    assert drawn(1, range(50)) != whole
    assert len({tuple(whole[epoch, sample] for sample in range(50)) for epoch in range(4)}) == 4
    again = pickle.loads(pickle.dumps(of_lines(templates=TEMPLATES, trigger="sks")))
    assert [again(LINES, "k", 0, i) for i in range(20)] == [
        of_lines(templates=TEMPLATES, trigger="sks")(LINES, "k", 0, i) for i in range(20)
    ]


def test_templates_may_name_fields_of_the_json():
    captions = Captions(TextMember(), templates=["{json.artist.name}, {json.tags}: {caption}"])
    metadata = {"artist": {"name": "Ö {caption}"}, "tags": ["a", "b", 3]}
    members = {"txt": b"cat", "json": json.dumps(metadata).encode()}
    assert captions(members, "k", 0, 0) == "Ö {caption}, a, b, 3: cat"
    assert set(captions.extensions) == {"txt", "json"}


def test_captions_are_not_read_where_no_template_names_them():
    captions = Captions(TextMember(), templates=["a photo of {trigger}"], trigger="sks dog")
    assert captions.extensions == ()
    assert captions({}, "k", 0, 0) == "a photo of sks dog"
    assert captions.has("k")


@pytest.mark.parametrize(
    "tags", [Tags(), Tags(keep=1, shuffle=True), Tags(keep=9, dropout=0.5)], ids=["off", "few", "kept"]
)
@pytest.mark.parametrize("choose", ["draw", "first", "join"])
def test_every_caption_that_comes_out_is_listed_and_no_other(choose, tags):
    members = {"txt": b"a, b\nc\nc", "json": b'{"style": "x"}'}
    captions = of_lines(
        choose=choose, tags=tags, templates=[*TEMPLATES, "{json.style}: {caption}", "{trigger}"], trigger="t"
    )
    listed = list(captions.every(members, "k"))
    assert len(set(listed)) == len(listed)
    drawn = all_drawn(captions, members, 1000)
    assert set(listed) == (drawn if choose != "join" or tags.keep != 1 else set())


def test_what_cannot_be_listed_is_not():
    assert not list(of_lines(tags=Tags(" ", shuffle=True), choose="join").every(LINES, "k"))
    many = {"txt": "\n".join(map(str, range(MAX_LISTED))).encode()}
    assert len(list(of_lines().every(many, "k"))) == MAX_LISTED
    assert not list(of_lines(templates=["{caption}", "{caption}!"]).every(many, "k"))


def test_missing_captions(tmp_path):
    table = tmp_path / "t.csv"
    table.write_text("key,caption\nother,a\n")
    for source in (TextMember(), JsonMember("a.b"), CsvColumn(str(table))):
        members = {"json": b'{"a": {"c": 1}}'}
        for missing in ("error", "drop"):
            captions = Captions(source, missing=missing)
            with pytest.raises(MissingCaption, match=r"no caption \(txt\)|no a\.b in json|no row in .*t\.csv"):
                captions(members, "k", 0, 0)
            with pytest.raises(MissingCaption):
                list(captions.every(members, "k"))
            assert captions.faults(members, "k")[0].rule == "missing-caption"
        empty = Captions(source, missing="empty", templates=TEMPLATES, trigger="sks")
        assert all_drawn(empty, members) == set(empty.every(members, "k")) == {""}
    assert not Captions(CsvColumn(str(table))).has("k")


def test_a_sample_lacks_its_caption_in_every_epoch_or_in_none():
    captions = Captions(TextMember(), templates=["{caption}", "{json.title}"])
    for members in ({"txt": b"a"}, {"json": b'{"title": "b"}'}):
        for epoch in range(12):
            with pytest.raises(MissingCaption):
                captions(members, "k", epoch, 0)


@pytest.mark.parametrize("blank", [b"", b" \t\r\n \n", "\ufeff\u3000\u2028".encode()], ids=["none", "ascii", "unicode"])
def test_blank_captions_are_unconditional_or_refused(blank):
    members = {"txt": blank, "json": b"{}"}
    for missing in ("error", "empty"):
        captions = of_lines(missing=missing, templates=TEMPLATES, trigger="sks")
        assert all_drawn(captions, members) == set(captions.every(members, "k")) == {""}
        assert [fault.rule for fault in captions.faults(members, "k")] == ["blank-caption"]
    with pytest.raises(BlankCaption, match=r"caption \(txt\) is blank"):
        of_lines(missing="drop")(members, "k", 0, 0)


def test_undecodable_captions_are_counted_by_their_faults():
    captions = Captions(TextMember(), templates=["{json.t} {caption}"])
    members = {"txt": b"caf\xe9", "json": b'{"t": "a\xff"}'}
    assert captions(members, "k", 0, 0) == "a\ufffd caf\ufffd"
    assert [(fault.rule, fault.detail.split(" has")[0]) for fault in captions.faults(members, "k")] == [
        ("caption-not-utf8", "t in json"),
        ("caption-not-utf8", "caption (txt)"),
    ]
    assert not captions.faults({"txt": "café".encode(), "json": b'{"t": "a"}'}, "k")


@pytest.mark.parametrize(
    "text", ["a\0b", "\x1b[2J", "a\u202eb\u2066", "<script>x</script>", "a\ufeffb", "{json.x} %s {{"]
)
def test_captions_are_trained_on_as_they_are(text):
    assert Captions(TextMember())({"txt": text.encode()}, "k", 0, 0) == text
    assert (
        Captions(JsonMember("c"))({"json": json.dumps({"c": text + "\ud800"}).encode()}, "k", 0, 0) == text + "\ud800"
    )


def test_a_faulty_document_is_a_fault_and_refused_whatever_the_policy():
    for missing in ("error", "empty", "drop"):
        captions = Captions(JsonMember(), missing=missing)
        with pytest.raises(CaptionError, match="nested too deeply"):
            captions({"json": b"[" * 100_000}, "k", 0, 0)
        assert [fault.rule for fault in captions.faults({"json": b"[" * 100_000}, "k")] == ["malformed-caption"]


def test_ten_thousand_words_are_bounded_in_time():
    captions = Captions(TextMember(), tags=Tags(" ", shuffle=True), templates=TEMPLATES, trigger="sks")
    members = {"txt": b"longword " * 11_000}
    start = time.perf_counter()
    assert len(captions(members, "k", 0, 0)) >= 98_999
    assert time.perf_counter() - start < 1


@settings(max_examples=300, deadline=None)
@given(txt=st.none() | st.binary(max_size=60), document=st.none() | st.binary(max_size=60) | st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["caption", "a"]), inner, max_size=2),
).map(lambda value: json.dumps(value).encode()), missing=st.sampled_from(["error", "empty", "drop"]))  # fmt: skip
def test_no_bytes_make_anything_but_text_or_a_caption_error(txt, document, missing):
    members = {name: data for name, data in (("txt", txt), ("json", document)) if data is not None}
    for source in (TextMember(lines=True), JsonMember()):
        captions = Captions(source, missing=missing, templates=["{caption}", "{caption} {json.a}"])
        captions.faults(members, "k")
        try:
            listed = list(captions.every(members, "k"))
        except CaptionError:
            with pytest.raises(CaptionError):
                captions(members, "k", 0, 0)
        else:
            assert captions(members, "k", 0, 0) in listed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"choose": "any"}, "data.captions.choose=any: must be one of draw, first, join"),
        ({"missing": "skip"}, "data.captions.missing=skip: must be one of error, empty, drop"),
        ({"templates": []}, "data.captions.templates must not be empty"),
        ({"trigger": "sks"}, "data.captions.trigger=sks: no template contains it"),
    ],
    ids=["choose", "missing", "no-template", "trigger"],
)
def test_impossible_settings_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Captions(TextMember(), **options)


def test_settings_tell_apart_what_gives_other_captions():
    variants = [
        Captions(TextMember()),
        Captions(TextMember("caption")),
        Captions(TextMember(lines=True)),
        Captions(JsonMember()),
        Captions(JsonMember("title")),
        of_lines(choose="first"),
        of_lines(templates=TEMPLATES, trigger="a"),
        of_lines(templates=TEMPLATES, trigger="b"),
        of_lines(tags=Tags(shuffle=True)),
        of_lines(missing="empty"),
    ]
    assert len({captions.settings for captions in variants}) == len(variants)
