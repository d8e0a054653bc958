"""Authors of the images whose licences require attribution."""

from __future__ import annotations

import json
import re
from collections import Counter

import numpy as np
from numpy.typing import NDArray

from diffusion_train.data.shard.catalog import Catalog
from diffusion_train.data.storage.base import Storage
from diffusion_train.rights.license import is_recognised, normalise

MOST = 10_000  # images whose authors are read; more would delay the start, and no card could name them all
_NO_NAME_NEEDED = re.compile(r"(CC0-1\.0|CC-PDM-1\.0|CC-PDDC|LicenseRef-[\w.-]+|Unlicense|WTFPL|0BSD|MIT-0)")


def asks_for_author(license: str) -> bool:
    """Whether a licence requires attribution. An owner's terms (LicenseRef-...) are not read, so they do not count."""
    name = normalise(license)
    return is_recognised(name) and not _NO_NAME_NEEDED.fullmatch(name)


def authors(catalog: Catalog, samples: NDArray[np.int64], storage: Storage) -> dict[str, dict[str, int]]:
    """Return licence -> author -> number of images, of at most `MOST` images, the most frequent author first.

    The author is the field `author` in the JSON of a sample, where `prepare` writes it. Samples without one are left
    out.
    """
    names, license_of = catalog.licenses()
    asking = [number for number, name in enumerate(names) if asks_for_author(name)]
    chosen = samples[np.isin(license_of[samples], asking)][:MOST]
    located = catalog.members_of(chosen, {"json"})
    texts = iter(storage.read([range_ for members in located for range_, _ in members.values()]))
    counts: dict[str, Counter[str]] = {}
    for sample, members in zip(chosen.tolist(), located, strict=True):
        if author := _author(next(texts)) if members else None:
            counts.setdefault(names[license_of[sample]], Counter())[author] += 1
    return {license: dict(counter.most_common()) for license, counter in counts.items()}


def _author(data: bytes) -> str | None:
    try:
        facts = json.loads(data)
    except (ValueError, RecursionError):
        return None
    author = facts.get("author") if isinstance(facts, dict) else None
    return " ".join(author.split())[:200] or None if isinstance(author, str) else None
