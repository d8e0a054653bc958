"""Samples that look like another one: in the training data, or trained on while the other is held out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from diffusion_train.data.collection import Collection
from diffusion_train.data.decode import IMAGE_EXTENSIONS
from diffusion_train.data.near_duplicates import Signatures, groups
from diffusion_train.data.problem import Problem
from diffusion_train.data.selection import Indices, told
from diffusion_train.utils.redact import redact_url


def copies(
    collection: Collection, caption_extensions: Sequence[str], looks: Signatures, train: Indices, held_out: Indices
) -> Iterator[Problem]:
    """Of the samples `train` and `held_out`, those that look like one before, or like one that is trained on.

    `looks` (n,) are signatures of all samples.
    """
    is_held_out = np.zeros(len(collection), bool)
    is_held_out[held_out] = True
    near: dict[int, int] = {}
    leaked: dict[int, int] = {}
    samples = np.sort(np.concatenate([train, held_out]))
    for group in groups(looks[samples]):
        members = samples[np.sort(group)]
        trained = members[~is_held_out[members]]
        first = int(trained[0] if len(trained) else members[0])
        for sample in members[members != first].tolist():
            found = leaked if is_held_out[sample] and len(trained) else near
            found[sample] = first
    describe = _Describe(collection, caption_extensions)
    yield from _told(describe, "leakage", leaked, "which is trained on")
    yield from _told(describe, "near-duplicate", near, "")


def _told(describe: _Describe, rule: str, found: Mapping[int, int], state: str) -> Iterator[Problem]:
    samples = np.zeros(len(describe.collection), bool)
    samples[list(found)] = True
    yield from told(describe.collection, rule, lambda sample: describe(sample, found[sample], state), samples)


class _Describe:
    """What a sample has in common with another one."""

    def __init__(self, collection: Collection, caption_extensions: Sequence[str]) -> None:
        self.collection = collection
        self.images = collection.first_rows(IMAGE_EXTENSIONS)[1]
        self.captions = [collection.first_rows([extension])[1] for extension in caption_extensions]

    def __call__(self, sample: int, other: int, state: str) -> str:
        likeness = "is" if self._same(self.images, sample, other) else "looks like"
        shard = redact_url(self.collection.urls[self.collection.shard(other)])
        parts = [f"its image {likeness} that of {self.collection.key(other)!r} in {shard}", state]
        if self.captions and all(self._same(rows, sample, other) for rows in self.captions):
            parts.append("with the same caption")
        return ", ".join(filter(None, parts))

    def _same(self, rows: Indices, sample: int, other: int) -> bool:
        """By size and checksum."""
        one, two = (self.collection.arrays["members"][rows[number]] for number in (sample, other))
        return bool(rows[sample] >= 0 and rows[other] >= 0 and one["crc"] == two["crc"] and one["size"] == two["size"])
