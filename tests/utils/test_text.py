from __future__ import annotations

import pytest

from diffusion_train.utils.text import printable


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
