"""Rules that need the index alone."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from diffusion_train.data.caption.captions import Captions
from diffusion_train.data.collection import Collection
from diffusion_train.data.problem import Problem
from diffusion_train.data.selection import sample_faults, sizes, told
from diffusion_train.data.source.rights import decide


def of_samples(
    collection: Collection, captions: Captions, side: int, max_aspect: float, allowed: list[str] | None
) -> Iterator[Problem]:
    yield from collection.problems
    for fault in sample_faults(collection, captions):
        yield from told(collection, *fault)
    width, height = sizes(collection)
    short, long = np.minimum(width, height), np.maximum(width, height)
    yield from told(collection, "tiny-image", f"a side below data.image_size={side}", (short > 0) & (short < side))
    yield from told(collection, "extreme-aspect", f"aspect ratio above {max_aspect:g}", long > max_aspect * short)
    yield from duplicate_keys(collection)
    yield from unsorted_members(collection)
    yield from licenses(collection, allowed)
    if ignored := collection.meta["num_ignored"]:
        yield Problem("ignored-members", "", f"{ignored} links, folders and hidden files are ignored")


def duplicate_keys(collection: Collection) -> Iterator[Problem]:
    hashes = collection.arrays["hashes"]
    order = np.argsort(hashes, kind="stable")
    again = np.zeros(len(hashes), bool)
    again[order[1:]] = hashes[order[1:]] == hashes[order[:-1]]
    yield from told(collection, "duplicate-key", "an earlier shard has a sample of this key", again)


def unsorted_members(collection: Collection) -> Iterator[Problem]:
    """A sample is torn apart where a member of another one of its shard lies between its own."""
    offsets, starts = collection.arrays["members"]["offset"], collection.arrays["starts"]
    owner = np.repeat(np.arange(len(collection)), np.diff(starts))
    shard = np.searchsorted(collection.arrays["shard_ends"], owner, side="right")
    owners = owner[np.lexsort((offsets, shard))]
    runs = np.bincount(owners[np.diff(owners, prepend=-1) != 0], minlength=len(collection))
    yield from told(collection, "unsorted-members", "members of other samples lie between its own", runs > 1)


def licenses(collection: Collection, allowed: list[str] | None) -> Iterator[Problem]:
    names, place = collection.licenses()
    yield from told(collection, "unknown-license", "its json names no license", place < 0)
    for number, name in enumerate(names):
        if allowed is not None and not decide(name, allowed):
            detail = f"{name} is not among data.allowed_licenses"
            yield from told(collection, "license-not-allowed", detail, place == number)
