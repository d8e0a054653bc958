"""What a set of shards holds, as data; card_text.py tells it to people."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffusion_train.data.ledger import Details, Done
from diffusion_train.data.near_duplicates import MAX_COLOUR_DIFFERENCE, MAX_DISTANCE, SIGNATURE, groups
from diffusion_train.data.source.rights import terms
from diffusion_train.data.source.sample import Measures

Card = dict[str, Any]
_SIDES = (32, 64, 128, 256, 512, 768, 1024, 2048)
_ASPECTS = (0.5, 0.67, 0.8, 1.25, 1.5, 2.0)
_WORDS = (1, 6, 11, 21, 41, 76)
_SHOWN = 50  # groups of near-duplicates in the card


@dataclass(frozen=True)
class Tokens:
    """Counts the tokens of captions for an encoder that takes `most` of them."""

    encoder: str
    most: int
    count: Callable[[Sequence[str]], Sequence[int]]


def make_card(source: Card, shards: Sequence[Done], details: Iterable[Details], tokens: Tokens | None) -> Card:
    """`source` says where the samples come from and with which settings."""
    measures: list[Measures] = []
    left_out: Counter[str] = Counter()
    for part in details:
        measures += part.measures
        for _, reason, _, count in part.left_out:
            left_out[reason] += count
    return {
        "num_samples": len(measures),
        "shards": {done.shard: {"samples": done.num_samples, "bytes": done.size} for done in shards if done.shard},
        **source,
        "images": _images(measures),
        "captions": _captions([m.caption for m in measures], tokens),
        "rights": _rights(measures),
        "near_duplicates": _near_duplicates(measures),
        "left_out": dict(left_out.most_common()),
    }


def _images(measures: Sequence[Measures]) -> Card:
    width, height = (np.array([getattr(m, axis) for m in measures], np.int64) for axis in ("width", "height"))
    return {
        "formats": dict(Counter(m.format for m in measures).most_common()),
        "shorter_side": _spread(np.minimum(width, height), _SIDES),
        "longer_side": _spread(np.maximum(width, height), _SIDES),
        "aspect": _spread(width / height, _ASPECTS),
        "animated": sum(m.is_animated for m in measures),
        "transparent": sum(m.is_transparent for m in measures),
        "rotated_by_exif": sum(m.is_rotated for m in measures),
        "shrunk": sum(m.was_shrunk for m in measures),
    }


def _captions(captions: Sequence[str], tokens: Tokens | None) -> Card:
    card: Card = {
        "empty": sum(not caption for caption in captions),
        "distinct": len(set(captions)),
        "examples": _plain_examples(captions),
        "not_utf8": sum("\ufffd" in caption for caption in captions),
        "words": _spread(np.array([len(caption.split()) for caption in captions]), _WORDS),
        "characters": _spread(np.array([len(caption) for caption in captions]), ()),
    }
    if tokens:
        counts = np.array(tokens.count(captions))
        longer = int((counts > tokens.most).sum())
        card["tokens"] = {"encoder": tokens.encoder, "most": tokens.most, "longer": longer, **_spread(counts, ())}
    return card


def _plain_examples(captions: Sequence[str], count: int = 4) -> list[str]:
    """Of ordinary words, spread over the samples: fit for a command line."""
    plain = [text for text in dict.fromkeys(captions) if 0 < len(text) <= 80 and re.fullmatch(r"[\w ,.-]+", text)]
    count = min(count, len(plain))
    return [plain[place * len(plain) // count] for place in range(count)]


def _rights(measures: Sequence[Measures]) -> Card:
    licenses = Counter(m.license for m in measures)
    asked: Counter[str] = Counter()
    for license, count in licenses.items():
        asked.update(dict.fromkeys(terms(license), count))
    return {
        "licenses": dict(licenses.most_common()),
        "terms": dict(asked.most_common()),
        "without_author": sum(not m.has_author for m in measures),
        "without_source": sum(not m.has_source for m in measures),
    }


def _near_duplicates(measures: Sequence[Measures]) -> Card:
    signatures = np.frombuffer(b"".join(bytes.fromhex(m.signature) for m in measures), SIGNATURE)
    found = sorted(groups(signatures), key=len, reverse=True)
    return {
        "max_distance": MAX_DISTANCE,
        "max_colour_difference": MAX_COLOUR_DIFFERENCE,
        "groups": len(found),
        "samples": sum(map(len, found)),
        "largest": [[measures[place].key for place in group[:_SHOWN]] for group in found[:_SHOWN]],
    }


def _spread(values: NDArray[Any], edges: Sequence[float]) -> Card:
    """Least, median and most, and how many lie from one edge to below the next."""
    plain = {"min": values.min(), "median": np.median(values), "max": values.max()}
    card: Card = {name: round(float(value), 2) for name, value in plain.items()}
    if edges:
        counts = np.bincount(np.searchsorted(edges, values, side="right"), minlength=len(edges) + 1)
        whole = all(isinstance(edge, int) for edge in edges)
        between = [f"{low} to {high - 1}" if whole else f"{low} to {high}" for low, high in pairwise(edges)]
        names = [f"below {edges[0]}", *between, f"{edges[-1]} and more"]
        card["histogram"] = dict(zip(names, map(int, counts), strict=True))
    return card
