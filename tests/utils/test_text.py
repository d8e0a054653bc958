from __future__ import annotations

import shlex

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from diffusion_train.utils.text import argument, clean_text, decode_text, is_damaged, printable


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a cat, kedi 猫 🐈 é", "a cat, kedi 猫 🐈 é"),
        ("\x1b[2J\x07\0", r"\x1b[2J\x07\x00"),
        ("a\u202eb\u2066c\u200f", r"a\u202eb\u2066c\u200f"),
        ("line\nnext\r\t\x85\u2028", r"line\nnext\r\t\x85\u2028"),
        ("\ud800 \ufeff \U000e0041", r"\ud800 \ufeff \U000e0041"),
        ("<b>&{x}%s", "<b>&{x}%s"),
    ],
    ids=["plain", "control", "bidi", "lines", "surrogate-bom-tag", "html"],
)
def test_what_does_not_print_is_escaped(text, expected):
    assert printable(text) == expected
    printable(text).encode("utf-8")


@pytest.mark.parametrize("text", ["a" * 10**6, "\x1b" * 10**6, "a" * 79 + "\n", "ab" * 39 + "\u202e"])
def test_long_text_is_cut_and_marked(text):
    out = printable(text)
    assert len(out) <= 80
    assert out.endswith("…")
    assert len(out) > 70
    assert printable("a" * 80) == "a" * 80


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("text", ["Türkiye’nin bayrağı 🇹🇷", "a", ""])
def test_a_byte_order_mark_names_the_encoding(encoding, text):
    assert decode_text(text.encode(encoding)) == text
    big = encoding.replace("-sig", "") + "-be" * (encoding in ("utf-16", "utf-32"))
    assert decode_text(("\ufeff" + text).encode(big), encoding="cp1252") == text


def test_an_encoding_can_be_named():
    assert decode_text("ein Gruß – „Müller“".encode("cp1252"), "cp1252") == "ein Gruß – „Müller“"
    assert decode_text("猫の写真".encode("shift_jis"), "shift_jis") == "猫の写真"


@pytest.mark.parametrize(
    ("data", "encoding", "cleaned"),
    [
        ("Straße".encode("latin-1"), None, "Stra\ufffde"),
        (b"\xed\xa0\x80", None, "\ufffd" * 3),
        ("a cat".encode("utf-16")[:-1], None, "a ca\ufffd"),
        (b"\x81", "cp1252", "\ufffd"),
        (b"a\x83\x20", "shift_jis", "a\ufffd "),
    ],
    ids=["latin-1", "surrogate", "cut-utf-16", "cp1252", "shift-jis"],
)
def test_bytes_that_cannot_be_decoded_are_known(data, encoding, cleaned):
    text = decode_text(data, encoding)
    assert is_damaged(text)
    assert clean_text(text) == cleaned
    assert not is_damaged(cleaned)


@pytest.mark.parametrize(
    "path",
    [
        "runs/openmoji/2026-12-01_10-00-00",
        "run=1,lr=1e-3",
        "a b",
        "v[12]",
        "{x}",
        "it's",
        'the "best"',
        "a$b",
        "ünï",
        "a:b",
        "(1)",
        "~x",
    ],
)
def test_a_printed_argument_is_read_as_it_was_meant(path):
    (word,) = shlex.split(argument("run", path))
    assert OverridesParser.create().parse_override(word).value() == path
