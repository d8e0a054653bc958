from __future__ import annotations

import json
import pickle
import time

import pytest

from diffusion_train.data.caption.csv_column import CsvColumn
from diffusion_train.data.caption.fault import MAX_BYTES, CaptionError
from diffusion_train.data.caption.source import JsonField, JsonMember, TextMember


def texts(source, data):
    (extension,) = source.extensions
    return source.texts({extension: data}, "k")


def test_a_text_member_is_one_caption():
    assert texts(TextMember(), b" a\nb\n") == [" a\nb\n"]
    assert texts(TextMember("caption"), "Günaydın 🐈".encode()) == ["Günaydın 🐈"]
    assert TextMember().texts({"json": b"{}"}, "k") == []


def test_lines_are_captions_whatever_system_wrote_them():
    assert texts(TextMember(lines=True), b"a\r\nb\nc\rd") == ["a", "b", "c", "d"]
    assert texts(TextMember(lines=True), "a\x0bb\u2028c\x85d".encode()) == ["a\x0bb\u2028c\x85d"]


def test_what_is_not_utf8_becomes_the_replacement_character_and_is_told():
    source = TextMember()
    assert texts(source, "café".encode("latin-1")) == ["caf\ufffd"]
    assert texts(source, b"\xed\xa0\x80") == ["\ufffd" * 3]
    assert texts(source, "\ufeffa\0b\ufeff".encode()) == ["a\0b\ufeff"]
    assert texts(source, "café".encode("utf-16")) == texts(source, "café".encode("utf-32")) == ["café"]
    assert texts(JsonMember(), '{"caption": "café"}'.encode("utf-16")) == ["café"]


def test_a_member_too_large_to_be_a_caption_is_refused():
    assert len(texts(TextMember(), b"x" * MAX_BYTES)[0]) == MAX_BYTES
    for source in (TextMember(), JsonMember()):
        with pytest.raises(CaptionError, match=f"at most {MAX_BYTES} bytes, got {MAX_BYTES + 1}"):
            texts(source, b"x" * (MAX_BYTES + 1))


@pytest.mark.parametrize(
    ("field", "content", "expected"),
    [
        ("caption", {"caption": "a"}, ["a"]),
        ("caption", {"caption": ["a", "b"]}, ["a", "b"]),
        ("caption", {"caption": [["a"], None, "b"]}, ["a", "b"]),
        ("note.title", {"note": {"title": "a"}, "title": "b"}, ["a"]),
        ("notes.title", {"notes": [{"title": "a"}, {"other": "b"}, {"title": ["c", "d"]}]}, ["a", "c", "d"]),
        ("title", [{"title": "a"}], ["a"]),
        ("caption", {"caption": None}, []),
        ("caption", {"text": "a"}, []),
        ("caption.title", {"caption": "a"}, []),
        ("caption", {"caption": ["", " "]}, ["", " "]),
        ("caption", {"caption": "\ud800\u202e"}, ["\ud800\u202e"]),
    ],
)
def test_a_json_field_is_found_by_its_path(field, content, expected):
    assert texts(JsonMember(field), json.dumps(content).encode()) == expected


def test_lists_in_lists_are_one_list_however_deep():
    assert texts(JsonMember(), b'{"caption": ' + b'["a", ' * 400 + b'"b"' + b"]" * 400 + b"}") == ["a"] * 400 + ["b"]


def test_numbers_are_text_as_they_are_written_however_many_digits():
    digits = "9" * 100_000
    start = time.perf_counter()
    assert texts(JsonField("n"), b'{"n": [1.50, 1e400, NaN, %s]}' % digits.encode()) == ["1.50", "1e400", digits]
    assert texts(JsonMember("n"), b'{"n": [-7, %s]}' % digits.encode()) == ["-7", digits]
    assert time.perf_counter() - start < 1


@pytest.mark.parametrize("value", ["1.50", "1e400", "Infinity", "true", "{}"])
def test_a_caption_in_json_is_text_or_a_whole_number(value):
    assert texts(JsonMember("n"), b'{"n": NaN}') == texts(JsonMember("n"), b'{"n": null}') == []
    with pytest.raises(CaptionError, match="n must be text"):
        texts(JsonMember("n"), b'{"n": %s}' % value.encode())


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"[" * 100_000, "nested too deeply"),
        (b'{"caption":' * 90_000, "nested too deeply"),
        (b"", "malformed JSON"),
        (b'{"caption": "a"', "malformed JSON"),
        (b"{'caption': 1}", "malformed JSON"),
        (b"<html>", "malformed JSON"),
        (b'{"caption": {"a": 1}}', "caption must be text, got an object"),
        (b'{"caption": ["a", true]}', "caption must be text, got true or false"),
    ],
    ids=["brackets", "braces", "empty", "torn", "no-json", "html", "object", "boolean"],
)
def test_malformed_or_deep_json_is_refused_never_a_crash(data, reason):
    with pytest.raises(CaptionError, match=reason) as caught:
        texts(JsonMember(), data)
    assert caught.value.rule == "malformed-caption"
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)  # from a worker process


@pytest.mark.parametrize(
    "make", [lambda: JsonMember("a..b"), lambda: JsonMember(""), lambda: TextMember(".txt"), lambda: TextMember("TXT")]
)
def test_impossible_settings_are_refused(make):
    with pytest.raises(ValueError, match=r"data\.captions\.source\."):
        make()


@pytest.fixture
def table(tmp_path):
    def make(content, name="captions.csv", **options):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return CsvColumn(str(path), **options)

    return make


def test_a_column_is_found_by_key_and_by_file_name(table):
    source = table('\ufeffimage,caption\ncats/1.jpg,"a, ""b""\n{x}"\r\nd/2.v1.png, c \n\n', key="image")
    assert source.texts({}, "cats/1") == ['a, "b"\n{x}']
    assert source.texts({}, "d/2") == [" c "]
    assert source.texts({}, "3") == []
    assert [source.has(key) for key in ("cats/1", "d/2", "3")] == [True, True, False]
    assert source.extensions == ()
    assert table("key\ttext\n1\ta,b\n", "t.tsv", column="text").texts({}, "1") == ["a,b"]
    assert table("key;caption\n1;a,b\n").texts({}, "1") == ["a,b"]
    assert table('{"key": "1.png", "caption": "é"}\n', "t.jsonl").texts({}, "1") == ["é"]


def test_bytes_of_a_table_that_are_not_utf8(table):
    source = table(b"key,caption\n1,caf\xe9\n2,caf\xc3\xa9\n")
    assert source.texts({}, "1") == ["caf\ufffd"]
    assert source.texts({}, "2") == ["café"]


@pytest.mark.parametrize("name", ["t.csv", "t.jsonl"])
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_a_table_is_read_by_its_byte_order_mark(table, name, encoding):
    text = (
        "key,caption\n1,café\n2,z\n"
        if name == "t.csv"
        else '{"key": 1, "caption": "café"}\n{"key": 2, "caption": "z"}\n'
    )
    source = table(text.encode(encoding), name)
    assert (source.texts({}, "1"), source.texts({}, "2")) == (["café"], ["z"])


def test_keys_in_several_rows_are_reported_or_several_captions(table):
    content = "key,caption\n" + "".join(f"k{i // 2}.jpg,c{i}\n" for i in range(14)) + "x,y\n"
    with pytest.raises(ValueError, match=r"7 keys are in several rows: k0, k1, k2, k3, k4, \.\.\.; .*several=true"):
        table(content).keys()
    assert table(content, several=True).texts({}, "k1") == ["c2", "c3"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "has no header"),
        ("key,text\n", "has no column 'caption'; its columns: key, text"),
        ("key,caption,caption\n", "several columns called caption"),
        ("key,caption\n1,a,b\n", "line 2: 3 fields, but the header has 2"),
        ("key,caption\n1,a\n2\n", "line 3: 1 fields, but the header has 2"),
        ('key,caption\n1,"a\n2,b\n3,c\n', "unexpected end of data"),
        ("key,caption\n1," + "x" * 2_000_000, "line 2: field larger than field limit"),
    ],
    ids=["empty", "no-column", "twice", "too-many", "too-few", "open-quote", "huge-field"],
)
def test_a_table_that_is_not_whole_is_refused(table, content, reason):
    with pytest.raises(ValueError, match=reason):
        table(content).keys()


def test_a_caption_in_json_lines_is_text_or_a_whole_number(table):
    lines = ['{"key": "1", "caption": 5}', '{"key": "2", "caption": null}', '{"key": "3", "caption": NaN}']
    source = table("\n".join(lines), "t.jsonl")
    assert source.texts({}, "1") == ["5"]
    assert [source.has(key) for key in "123"] == [True, False, False]
    with pytest.raises(ValueError, match="line 1: key and caption: a caption must be text or a whole number, got true"):
        table('{"key": "1", "caption": true}\n', "t.jsonl").keys()


def test_a_table_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"data\.captions\.source\.path=.*nothing\.csv: No such file"):
        CsvColumn(str(tmp_path / "nothing.csv")).keys()


def test_settings_know_what_the_table_holds(table):
    one, other = (table(f"key,caption\n1,{text}\n").settings for text in "ab")
    assert one != other
