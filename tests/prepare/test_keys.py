"""Dotted, unicode, very long and hostile names."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffusion_train.prepare.keys import MAX_BYTES, Keys


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("cats/001", "cats/001"),
        ("img.v1", "img_v1"),
        ("../../etc/x", "etc/x"),
        ("/abs/./a", "abs/a"),
        ("C:\\photos\\a", "C:/photos/a"),
        ("ein Käse", "ein Käse"),
        ("写真/日本", "写真/日本"),
        ("\U0001f468\u200d\U0001f4bb", "\U0001f468\u200d\U0001f4bb"),
        ("a\x1b[2J\n\u202eb\0", "a_[2J__b_"),
        ("$(touch x)", "$(touch x)"),
        ("bad \udcff byte", "bad _ byte"),
        ("..", "sample"),
        ("", "sample"),
        ("a/ \u00a0/b", "a/b"),
    ],
)
def test_safe_names_stay_as_they_are_and_others_become_safe(name, key):
    assert Keys()(name) == key


def test_the_same_letters_composed_differently_are_one_name():
    keys = Keys()
    assert keys("e\u0301") == "\u00e9"
    assert keys("\u00e9").startswith("\u00e9-")


def test_keys_that_would_be_equal_are_told_apart_always_in_the_same_way():
    names = ["a.b", "a_b", "a.b", "a.b"]
    first, second = ([keys(name) for name in names] for keys in (Keys(), Keys()))
    assert first == second
    assert first[0] == "a_b"
    assert len(set(first)) == 4


@given(st.lists(st.text(max_size=300), max_size=20))
def test_any_names_give_different_keys_that_readers_cannot_misread(names):
    keys = Keys()
    made = [keys(name) for name in names]
    assert len(set(made)) == len(names)
    for key in made:
        parts = key.split("/")
        assert all(part and part == part.strip() and part != ".." for part in parts), key
        assert not set(key) & set(".\0\n\\\x1b\u202e")
        assert len(key.encode()) <= MAX_BYTES
