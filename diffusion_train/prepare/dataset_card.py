"""The dataset card of prepared shards: as data, as the README.md of their folder, and as a summary for the terminal."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise
from sys import intern
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffusion_train import page
from diffusion_train.data.caption.tokens import Tokens
from diffusion_train.metric.near_duplicates import MAX_COLOUR_DIFFERENCE, MAX_DISTANCE, SIGNATURE, Signatures, groups
from diffusion_train.prepare.ledger import Details, Done
from diffusion_train.prepare.shard_sample import Measures
from diffusion_train.prepare.source.base import REASONS
from diffusion_train.rights.license import MEANING, terms

Card = dict[str, Any]
Columns = dict[str, list[Any]]  # field of Measures -> its value for each sample
_SIDES = (32, 64, 128, 256, 512, 768, 1024, 2048)
_ASPECTS = (0.5, 0.67, 0.8, 1.25, 1.5, 2.0)
_WORDS = (1, 6, 11, 21, 41, 76)
_FEW = ("format", "license", "profile_use", "converted", "license_expires")  # fields with few different values
_SHOWN = 50  # groups of near-duplicates in the card, and samples of a group
_HUB_SIZES = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M", "100M<n<1B", "1B<n<10B")
_HUB_LICENSES = re.compile(  # https://huggingface.co/docs/hub/repositories-licenses, of SPDX, and "unknown"
    r"unknown|afl-3\.0|apache-2\.0|artistic-2\.0|bsd-[23]-clause|bsd-3-clause-clear|bsl-1\.0|cc0-1\.0|cc-by-[234]\.0|cc-by-2\.5"
    r"|cc-by-sa-[34]\.0|cc-by-nc-[234]\.0|cc-by-nd-4\.0|cc-by-nc-nd-[34]\.0|cc-by-nc-sa-[234]\.0|ecl-2\.0|epl-[12]\.0"
    r"|eupl-1\.[12]|gfdl|gpl-2\.0|[al]?gpl-3\.0|isc|lgpl-2\.1|lppl-1\.3c|mit|mpl-2\.0|ms-pl|ncsa|odbl|ofl-1\.1|osl-3\.0|pddl"
    r"|postgresql|unlicense|wtfpl|zlib"
)


def make_card(source: Card, shards: Sequence[Done], details: Iterable[Details], tokens: Tokens | None) -> Card:
    """Return the card of the samples in `details`. `source` is plain data about their origin, added to the card.

    With `tokens` the card also counts the captions that the text encoder would cut.
    """
    columns: dict[str, list[Any]] = {name: [] for name in Measures._fields}
    signatures, left_out = bytearray(), Counter[str]()
    for part in details:
        for name, values in zip(Measures._fields, zip(*part.measures, strict=True), strict=False):
            columns[name] += map(intern, values) if name in _FEW else values
        signatures += bytes.fromhex("".join(columns["signature"]))
        columns["signature"].clear()
        for _, reason, _, count in part.left_out:
            left_out[reason] += count
    return {
        "num_samples": len(columns["key"]),
        "shards": {done.shard: {"samples": done.num_samples, "bytes": done.size} for done in shards if done.shard},
        **source,
        "images": _images(columns),
        "captions": _captions(columns["caption"], tokens),
        "rights": _rights(columns),
        "near_duplicates": _near_duplicates(columns["key"], np.frombuffer(signatures, SIGNATURE)),
        "left_out": dict(left_out.most_common()),
    }


def readme(card: Card, title: str) -> str:
    """Return the card as Markdown, for people and for the Hugging Face hub."""
    return page.card(
        "diffusion_train.prepare",
        "dataset_card.md",
        card=card,
        title=title,
        hub_license=_hub_license(card["rights"]["licenses"]),
        hub_size=_HUB_SIZES[max(len(str(card["num_samples"])) - 3, 0)],
        terms=terms,
        meaning=MEANING,
        reasons=REASONS,
    )


def summary(card: Card) -> str:
    """Return the card as a few lines for the terminal."""
    return page.plain("diffusion_train.prepare", "summary.txt", card=card)


def _hub_license(licenses: Iterable[str]) -> str:
    """Return the hub's name of the licence if all images have the same one, else "other"."""
    name, *others = licenses
    short = re.sub("-(only|or-later)$", "", name).lower()
    known = (one for one in (short, short.rpartition("-")[0]) if _HUB_LICENSES.fullmatch(one) and not others)
    return next(known, "other")


def _images(columns: Columns) -> Card:
    width, height = (np.array(columns[axis], np.int64) for axis in ("width", "height"))
    return {
        "formats": dict(Counter(columns["format"]).most_common()),
        "shorter_side": _spread(np.minimum(width, height), _SIDES),
        "longer_side": _spread(np.maximum(width, height), _SIDES),
        "aspect": _spread(width / height, _ASPECTS),
        "animated": sum(columns["is_animated"]),
        "transparent": sum(columns["is_transparent"]),
        "rotated_by_exif": sum(columns["is_rotated"]),
        "profile_converted": columns["profile_use"].count("converted"),
        "profile_ignored": columns["profile_use"].count("ignored"),
        "shrunk": sum(columns["was_shrunk"]),
        "converted": dict(Counter(filter(None, columns["converted"])).most_common()),
        "blank_on_white": sum(columns["is_blank"]),
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
    """Return up to `count` captions of ordinary words, spread over the samples, that are easy to use in a command."""
    plain = [text for text in dict.fromkeys(captions) if 0 < len(text) <= 80 and re.fullmatch(r"[\w ,.-]+", text)]
    count = min(count, len(plain))
    return [plain[index * len(plain) // count] for index in range(count)]


def _rights(columns: Columns) -> Card:
    licenses = Counter(columns["license"])
    asked: Counter[str] = Counter()
    for license, count in licenses.items():
        asked.update(dict.fromkeys(terms(license), count))
    return {
        "licenses": dict(licenses.most_common()),
        "terms": dict(asked.most_common()),
        "without_author": len(columns["key"]) - sum(columns["has_author"]),
        "without_source": len(columns["key"]) - sum(columns["has_source"]),
        "with_expiry": len(days := sorted(filter(None, columns["license_expires"]))),
        "first_expiry": days[0] if days else None,
    }


def _near_duplicates(keys: Sequence[str], signatures: Signatures) -> Card:
    found = sorted(groups(signatures), key=len, reverse=True)
    return {
        "max_distance": MAX_DISTANCE,
        "max_colour_difference": MAX_COLOUR_DIFFERENCE,
        "groups": len(found),
        "samples": sum(map(len, found)),
        "largest": [[keys[index] for index in group[:_SHOWN]] for group in found[:_SHOWN]],
    }


def _spread(values: NDArray[Any], edges: Sequence[float]) -> Card:
    """Return minimum, median and maximum of values (n,), and a histogram of intervals [edge, next edge)."""
    plain = {"min": values.min(), "median": np.median(values), "max": values.max()}
    # two decimals, or two digits: the width of a narrow image is a thousandth of its height
    card: Card = {
        name: round(float(value), 2) if value >= 1 else float(f"{value:.2g}") for name, value in plain.items()
    }
    if edges:
        counts = np.bincount(np.searchsorted(edges, values, side="right"), minlength=len(edges) + 1)
        whole = all(isinstance(edge, int) for edge in edges)
        between = [f"{low} to {high - 1}" if whole else f"{low} to {high}" for low, high in pairwise(edges)]
        names = [f"below {edges[0]}", *between, f"{edges[-1]} and more"]
        card["histogram"] = dict(zip(names, map(int, counts), strict=True))
    return card
