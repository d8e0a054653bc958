"""A dataset card for people: a page in Markdown, and a few lines for the terminal."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence
from typing import Any

from diffusion_train.license import terms
from diffusion_train.prepare.source.base import REASONS
from diffusion_train.utils.text import shown

Card = dict[str, Any]
MEANING = {
    "share-alike": "what is made from them is passed on under the same licence",
    "non-commercial": "no commercial use",
    "no-derivatives": "no changed versions are passed on",
    "unknown": "nothing says who may do what with them",
    "unread": "a licence text that was not recognised: read it",
}


def summary(card: Card) -> list[str]:
    """A line a subject, for the terminal."""
    images, captions = card["images"], card["captions"]
    side, words = images["shorter_side"], captions["words"]
    remarks = _remarks(captions, _CAPTION_REMARKS) + _tokens(captions).replace(" ", "; ", 1).rstrip(".")
    rows = [
        ("samples", f"{card['num_samples']:,} in {_shards(card)}"),
        (
            "images",
            f"{_counts(images['formats'])}; shorter side {_range(side, 'px')}{_remarks(images, _IMAGE_REMARKS)}",
        ),
        ("captions", f"{_range(words, 'words')}; {captions['distinct']:,} distinct{remarks}"),
        ("licences", _licenses(card["rights"]["licenses"])),
        (
            "ask for",
            _counts(card["rights"]["terms"])
            or "nothing of share-alike, non-commercial, no-derivatives; none is unknown",
        ),
        ("look alike", _duplicates(card)),
        ("left out", _counts(card["left_out"]) or "nothing"),
    ]
    return [f"  {name:<11}{text}" for name, text in rows]


def readme(card: Card, title: str) -> str:
    """Names, captions and licences are strangers' texts: nothing of them is Markdown or HTML here."""
    head = f"""# {_text(title)}

{card["num_samples"]:,} images with captions in {_shards(card)} of WebDataset tars. `card.json` tells the same and more to programs."""
    reasons = [(reason, count, REASONS[reason].meaning) for reason, count in card["left_out"].items()]
    left_out = _table(["reason", "how many", "meaning"], reasons) or "Nothing."
    settings = _table(["setting", "value"], _settings(card["settings"]))
    parts = [
        *[head, _rights_text(card["rights"]), _images_text(card), _captions_text(card["captions"])],
        *["## Left out", left_out, "## How it was made", settings],
    ]
    return "\n\n".join(parts) + "\n"


def _rights_text(rights: Card) -> str:
    rows = [(name, count, ", ".join(terms(name)) or "-") for name, count in rights["licenses"].items()]
    asked = [f"- **{term}** ({count:,} images): {MEANING[term]}." for term, count in rights["terms"].items()]
    text = f"""## Rights

{_table(["licence", "images", "asks for"], rows)}

{chr(10).join(asked)}

Without a named author: {rights["without_author"]:,}. Without a source: {rights["without_source"]:,}. Every sample's
`json` holds its own `license`, `author` and `source` as they were found; nobody checked whether they are true."""
    return re.sub("\n{3,}", "\n\n", text)


def _images_text(card: Card) -> str:
    images = card["images"]
    return f"""## Images

{_table(["format", "images"], images["formats"].items())}

{_histogram("shorter side, px", images["shorter_side"])}

{_histogram("width / height", images["aspect"])}

Animated (the first frame counts): {images["animated"]:,}. Transparent: {images["transparent"]:,}. Turned by EXIF:
{images["rotated_by_exif"]:,}. Shrunk when they were prepared: {images["shrunk"]:,}. Near-duplicates: {_duplicates(card)}."""


def _captions_text(captions: Card) -> str:
    return f"""## Captions

{_histogram("words", captions["words"])}

Distinct: {captions["distinct"]:,}. Empty: {captions["empty"]:,}. With bytes that were no UTF-8: {captions["not_utf8"]:,}.
Longest: {captions["characters"]["max"]:,.0f} characters.{_tokens(captions)}"""


def _shards(card: Card) -> str:
    count, size = len(card["shards"]), sum(shard["bytes"] for shard in card["shards"].values())
    return f"{count:,} shard{'s' * (count != 1)} ({_bytes(size)})"


def _bytes(size: float) -> str:
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:,.0f} {unit}"
        size /= 1024
    return f"{size:,.1f} TiB"


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{shown(name, 60)} {count:,}" for name, count in counts.items())


def _range(spread: Card, unit: str) -> str:
    if spread["min"] == spread["max"]:
        return f"{spread['min']:,.0f} {unit}"
    return f"{spread['min']:,.0f} to {spread['max']:,.0f} {unit}, median {spread['median']:,.0f}"


_IMAGE_REMARKS = {
    "animated": "animated",
    "transparent": "transparent",
    "rotated_by_exif": "turned by EXIF",
    "shrunk": "shrunk",
}
_CAPTION_REMARKS = {"empty": "empty", "not_utf8": "with bytes that were no UTF-8"}


def _remarks(counts: Card, names: dict[str, str]) -> str:
    return "".join(f"; {counts[key]:,} {name}" for key, name in names.items() if counts[key])


def _tokens(captions: Card) -> str:
    if "tokens" not in captions:
        return ""
    tokens = captions["tokens"]
    return f" {tokens['longer']:,} are longer than the {tokens['most']} tokens that {tokens['encoder']} takes."


def _licenses(counts: dict[str, int], most: int = 6) -> str:
    shown_ones = dict(list(counts.items())[:most])
    further = len(counts) - len(shown_ones)
    more = f" and {further} more of {sum(counts.values()) - sum(shown_ones.values()):,} images" if further else ""
    return _counts(shown_ones) + more


def _duplicates(card: Card) -> str:
    found = card["near_duplicates"]
    return f"{found['samples']:,} images in {found['groups']:,} groups" if found["groups"] else "none"


def _settings(node: Card, path: str = "") -> Iterable[Sequence[object]]:
    for name, value in node.items():
        where = f"{path}{name}"
        if isinstance(value, dict):
            yield from _settings(value, f"{where}.")
        elif value not in (None, "", []):
            yield where, ", ".join(map(str, value)) if isinstance(value, list) else value


def _histogram(title: str, spread: Card) -> str:
    rows = [(name, count) for name, count in spread["histogram"].items() if count]
    return (
        f"{_table([title, 'images'], rows)}\n\n{spread['min']:,g} to {spread['max']:,g}, median {spread['median']:,g}."
    )


def _table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [_row(cells) for cells in rows]
    return "\n".join([_row(header), _row(["---"] * len(header)), *lines]) if lines else ""


def _row(cells: Sequence[object]) -> str:
    texts = [
        f"{cell:,}" if isinstance(cell, int) and not isinstance(cell, bool) else _text(str(cell)) for cell in cells
    ]
    return f"| {' | '.join(texts)} |"


def _text(text: str) -> str:
    """In which nothing means anything to Markdown or a browser."""
    plain = html.escape(shown(text, 120), quote=False)
    return (
        plain if plain == "---" else re.sub(r"([\\`*{}\[\]#+!|~]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9]))", r"\\\1", plain)
    )
