from __future__ import annotations

import time

import pytest

from diffusion_train.data.caption.flip import FlipGuard


@pytest.mark.parametrize(
    "caption",
    [
        "a red apple",
        "",
        "cleft chin",
        "a bright copyright-free scene",
        "texture of signal lights",
        "two dogs",
        "Wordsworth",
    ],
)
def test_pictures_without_sides_or_writing_may_be_mirrored(caption):
    assert FlipGuard()(caption)


@pytest.mark.parametrize(
    "caption",
    [
        "a man looking LEFT",
        "right-handed guitar",
        "a stop sign",
        "flag of Türkiye",
        "text",
        "company logo, white",
        "letter A",
        "a shirt that says hi",
        "a cake with “Happy Birthday”",
        'a board with "open"',
        "english_text, 1girl",
        "arrow turning counterclockwise",
        "the number seven.",
        "clock face",
    ],
)
def test_pictures_of_sides_or_writing_must_not_be_mirrored(caption):
    assert not FlipGuard()(caption)


def test_further_words_are_words_not_patterns():
    guard = FlipGuard(["sol", "C++", "yazı"])
    assert [guard(caption) for caption in ("eller SOL üstte", "kod: c++", "Yazı", "solo", "c", "yazılar")] == [
        False,
        False,
        False,
        True,
        True,
        True,
    ]
    with pytest.raises(ValueError, match=r"data\.flip_guard: a word must not be blank"):
        FlipGuard([" "])


def test_a_long_caption_is_bounded_in_time():
    start = time.perf_counter()
    assert FlipGuard()("lef " * 25_000)
    assert time.perf_counter() - start < 2
