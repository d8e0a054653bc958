from __future__ import annotations

import time
from collections import Counter
from itertools import permutations

import pytest

from diffusion_train.data.caption.tags import Tags

TEXT = "a, b, c, d"


def test_without_shuffle_and_dropout_the_text_is_not_touched():
    assert Tags(keep=1)("a ,b,,  c,", 0, 0, 0) == "a ,b,,  c,"


def test_every_order_of_the_tags_that_move_is_as_frequent():
    tags = Tags(keep=1, shuffle=True)
    seen = Counter(tags(TEXT, 0, epoch, sample) for epoch in range(60) for sample in range(50))
    assert set(seen) == {", ".join(["a", *rest]) for rest in permutations("bcd")}
    assert all(abs(count - 500) < 4 * (3000 * 5 / 36) ** 0.5 for count in seen.values())


def test_each_tag_is_left_out_at_its_rate_and_independently_of_the_others():
    tags, n = Tags(keep=1, dropout=0.3), 4000
    lists = [tags.split(tags(TEXT, 0, 0, sample)) for sample in range(n)]
    assert all(tags_left[0] == "a" and tags_left == sorted(tags_left) for tags_left in lists)
    for tag in "bcd":
        assert abs(sum(tag in tags_left for tags_left in lists) / n - 0.7) < 4 * (0.21 / n) ** 0.5
    both = sum("b" in tags_left and "c" in tags_left for tags_left in lists) / n
    assert abs(both - 0.49) < 4 * (0.25 / n) ** 0.5


def test_one_tag_at_least_remains():
    assert {Tags(dropout=1.0)(TEXT, 0, 0, sample) for sample in range(60)} == set("abcd")
    assert Tags(keep=2, dropout=1.0)(TEXT, 0, 0, 0) == "a, b"


def test_a_text_is_fixed_exactly_if_no_draw_changes_it():
    for keep in range(4):
        for options in ({"shuffle": True}, {"dropout": 0.5}, {"shuffle": True, "dropout": 0.5}):
            tags = Tags(keep=keep, **options)
            for text in ("", "a", " a,", "a, b", "a, b, c"):
                drawn = {tags(text, 0, 0, sample) for sample in range(60)}
                assert tags.is_fixed(text) == (drawn == {text}), (keep, options, text)


@pytest.mark.parametrize(
    ("separator", "text", "expected"),
    [(", ", "a ,b,, c", ["a", "b", "c"]), (" ", "a  b\tc", ["a", "b\tc"]), ("|||", "a b|||c", ["a b", "c"])],
)
def test_separators(separator, text, expected):
    tags = Tags(separator, shuffle=True)
    assert tags.split(text) == expected
    assert sorted(tags(text, 0, 0, 0).split(separator)) == expected


def test_ten_thousand_words_are_bounded_in_time():
    text = ", ".join(f"word{i}" for i in range(10_000))
    start = time.perf_counter()
    out = Tags(shuffle=True, dropout=0.1)(text, 0, 0, 0)
    assert time.perf_counter() - start < 1
    assert 8_500 < len(out.split(", ")) < 9_500


@pytest.mark.parametrize("options", [{"separator": ""}, {"keep": -1}, {"dropout": 1.5}, {"dropout": -0.1}], ids=str)
def test_impossible_settings_are_refused(options):
    with pytest.raises(ValueError, match=rf"data\.captions\.tags\.{next(iter(options))}"):
        Tags(**options)
