"""Decide from captions which images must not be mirrored."""

from __future__ import annotations

import re
from collections.abc import Sequence

SIDES = """
    left right lefthand righthand leftmost rightmost leftward leftwards rightward rightwards lefty
    clockwise counterclockwise anticlockwise east eastern west western eastbound westbound
"""
WRITING = """
    text texts letter letters lettering letterhead lettered word words wording words phrase slogan quote
    number numbers numeral numerals numbered digit digits numeric alphabet alphabetic alphanumeric character characters
    glyph glyphs font fonts typeface typography typographic calligraphy calligraphic writing written handwriting
    handwritten inscription inscribed engraved lettermark wordmark monogram script cursive signature signatures signed
    says saying reads titled title subtitle subtitles caption captions captioned headline watermark watermarked
    logo logos logotype brand branded emblem trademark insignia badge sticker label labels labeled labelled barcode
    sign signs signage signpost billboard poster posters banner placard flyer brochure leaflet advertisement ad
    newspaper magazine book books page pages document documents certificate receipt invoice letterpress menu
    screenshot webpage website keyboard chart graph diagram infographic map maps
    flag flags clock clocks watch watches dial sundial calendar date scoreboard jersey license licence plate
    stamp stamps coin coins banknote banknotes chalkboard blackboard whiteboard graffiti
    equation formula
"""
_BEFORE, _AFTER = r"(?<![^\W_])", r"(?![^\W_])"  # no letter or digit beside it; underscores separate the words of a tag
_QUOTED = r"[\"“”„«»]"


class FlipGuard:
    """Tells whether an image may be mirrored: not if its caption has a word about sides or writing, or quotation marks.

    Whole words in any case match. The words are English; `further_words` adds others.
    """

    def __init__(self, further_words: Sequence[str] = ()) -> None:
        words = [*SIDES.split(), *WRITING.split(), *further_words]
        if not all(word.strip() for word in words):
            raise ValueError("data.flip_guard: a word must not be blank")
        alternatives = "|".join(sorted(map(re.escape, words), key=len, reverse=True))
        self._meaning = re.compile(rf"{_BEFORE}(?:{alternatives}){_AFTER}|{_QUOTED}", re.IGNORECASE)

    def __call__(self, caption: str) -> bool:
        return self._meaning.search(caption) is None
