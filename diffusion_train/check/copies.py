"""Near-duplicates within the training samples, within the held-out samples, and between both."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from diffusion_train.data.image.decode import IMAGE_EXTENSIONS
from diffusion_train.data.selection import Indices, problems_of
from diffusion_train.data.shard.catalog import Catalog
from diffusion_train.data.shard.problem import Problem
from diffusion_train.metric.near_duplicates import Signatures, groups


@dataclass(frozen=True)
class Copies:
    """Maps from a sample to the first one that it looks like.

    `leaked` are held-out samples that look like a training one.
    """

    near: dict[int, int]
    leaked: dict[int, int]


def find_copies(looks: Signatures, train: Indices, held_out: Indices) -> Copies:
    """Find near-duplicates among the samples `train` and `held_out`; `looks` (n,) are the signatures of all samples."""
    is_held_out = np.zeros(len(looks), bool)
    is_held_out[held_out] = True
    copies = Copies({}, {})
    samples = np.sort(np.concatenate([train, held_out]))
    for group in groups(looks[samples]):
        members = samples[np.sort(group)]
        training = members[~is_held_out[members]]
        first = int(training[0] if len(training) else members[0])
        for sample in members[members != first].tolist():
            twins = copies.leaked if is_held_out[sample] and len(training) else copies.near
            twins[sample] = first
    return copies


def of_copies(catalog: Catalog, caption_extensions: Sequence[str], copies: Copies) -> Iterator[Problem]:
    """Yield a problem for each near-duplicate, which says whether image and caption are exact copies.

    `caption_extensions` are the members that captions are read from.
    """
    images = catalog.first_rows(IMAGE_EXTENSIONS)[1]
    captions = [catalog.first_rows([extension])[1] for extension in caption_extensions]

    def same(rows: Indices, sample: int, other: int) -> bool:
        """By size and checksum."""
        if min(rows[sample], rows[other]) < 0:
            return False
        one, two = (catalog.arrays["members"][rows[number]] for number in (sample, other))
        return bool(one["crc"] == two["crc"] and one["size"] == two["size"])

    def detail(twins: Mapping[int, int], state: str, sample: int) -> str:
        other = twins[sample]
        likeness = "is" if same(images, sample, other) else "looks like"
        name = f"{catalog.key(other)!r} in {catalog.printable_shard(other)}"
        is_same_caption = captions and all(same(rows, sample, other) for rows in captions)
        return f"its image {likeness} that of {name}{state}{', with the same caption' if is_same_caption else ''}"

    states = {"leakage": (copies.leaked, ", which is trained on"), "near-duplicate": (copies.near, "")}
    for rule, (twins, state) in states.items():
        samples = np.zeros(len(catalog), bool)
        samples[list(twins)] = True
        yield from problems_of(catalog, rule, partial(detail, twins, state), samples)
