"""Rules that only need the index."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence

import numpy as np

from diffusion_train.data.caption.captions import Captions
from diffusion_train.data.order.buckets import Buckets, Occupancy
from diffusion_train.data.order.order_spec import OrderSpec
from diffusion_train.data.selection import (
    UNUSED_IMAGE,
    Indices,
    Mask,
    Selection,
    per_source,
    problems_of,
    sample_faults,
    sizes,
    unused_images,
    without_caption,
)
from diffusion_train.data.shard.catalog import Catalog
from diffusion_train.data.shard.problem import Problem
from diffusion_train.rights.license import UNKNOWN, normalise, terms


def of_samples(
    catalog: Catalog, captions: Captions, selection: Selection, side: int, max_aspect: float
) -> Iterator[Problem]:
    """Yield the problems that the index shows.

    `side` is data.image_size in pixels, `max_aspect` a limit for the aspect.
    """
    yield from catalog.problems
    faults = sample_faults(catalog, captions)
    for fault in faults:
        yield from problems_of(catalog, *fault)
    if captions.missing == "empty":
        detail = f"no {captions.source.name}"
        yield from problems_of(catalog, "without-caption", detail, without_caption(catalog, captions))
    there, license_of = np.ones(len(catalog), bool), _license(catalog)
    for rule, detail, samples in selection.unwanted(catalog, captions, _whole(faults)):
        yield from problems_of(catalog, rule, license_of if rule == "license-not-allowed" else detail, samples)
        there &= ~samples
    yield from unsuited_sizes(catalog, there, side, max_aspect)
    yield from duplicate_keys(catalog)
    yield from unsorted_members(catalog)
    if selection.allowed_licenses is None:
        yield from licenses(catalog)
    if ignored := catalog.meta["num_ignored"]:
        yield Problem("ignored-members", "", f"{ignored:,} links, folders and hidden files are ignored")


def split(catalog: Catalog, captions: Captions, selection: Selection) -> tuple[Indices, Indices]:
    """Return (training samples, held-out samples) as data.faults=tolerant chooses them.

    Raises ValueError if all samples would be held out.
    """
    kept, _ = selection.choose_whole(catalog, captions, _whole(sample_faults(catalog, captions)))
    usable = np.flatnonzero(kept)
    return selection.split(catalog, usable) if len(usable) else (usable, usable)


def unsuited_sizes(catalog: Catalog, there: Mask, side: int, max_aspect: float) -> Iterator[Problem]:
    """Yield problems with the image sizes of the samples `there` (n,), a mask of those that are not left out."""
    width, height = sizes(catalog)
    short, long = np.minimum(width, height), np.maximum(width, height)

    def of(rule: str, reason: str, samples: Mask) -> Iterator[Problem]:
        return problems_of(catalog, rule, lambda sample: f"{width[sample]} x {height[sample]}: {reason}", samples)

    yield from of("tiny-image", f"a side below data.image_size={side}", there & (short > 0) & (short < side))
    yield from of("extreme-aspect", f"an aspect ratio above {max_aspect:g}", there & (long > max_aspect * short))


def duplicate_keys(catalog: Catalog) -> Iterator[Problem]:
    """Yield a problem for each sample whose key occurred before."""
    hashes = catalog.arrays["hashes"]
    again = np.ones(len(hashes), bool)
    again[np.unique(hashes, return_index=True)[1]] = False
    yield from problems_of(catalog, "duplicate-key", "an earlier shard has a sample with this key", again)


def unused(catalog: Catalog, further_images: Collection[str]) -> Iterator[Problem]:
    """Yield a problem for each image that no sample uses; `further_images` are the members that data.images names."""
    for sample, name, offset in unused_images(catalog, further_images):
        yield Problem("unused-image", catalog.printable_shard(sample), f"{name}: {UNUSED_IMAGE}", None, offset)


def unsorted_members(catalog: Catalog) -> Iterator[Problem]:
    """Yield a problem for each sample with a member of another sample between its own."""
    offsets, starts = catalog.arrays["members"]["offset"], catalog.arrays["starts"]
    owner = np.repeat(np.arange(len(catalog)), np.diff(starts))
    shard = np.searchsorted(catalog.arrays["shard_ends"], owner, side="right")
    owners = owner[np.lexsort((offsets, shard))]
    runs = np.bincount(owners[np.diff(owners, prepend=-1) != 0], minlength=len(catalog))
    yield from problems_of(catalog, "unsorted-members", "its members are not next to each other in the tar", runs > 1)


def licenses(catalog: Catalog) -> Iterator[Problem]:
    """Yield a problem for each sample without a licence, and one for each term of each licence."""
    names, index = catalog.licenses()
    called = np.array([normalise(name) for name in [*names, None]], object)[index]
    yield from problems_of(catalog, "unknown-license", "its json names no licence", called == UNKNOWN)
    for name, count in Counter(called.tolist()).items():
        for term in terms(name) if name != UNKNOWN else ():
            yield Problem(f"{term}-license", "", f"{name}: {count:,} sample(s)")


def occupancy(catalog: Catalog, train: Indices, order_spec: OrderSpec, batch_size: int) -> list[Occupancy]:
    """Return how full the buckets of the training samples are; empty if all images have one shape."""
    if len(order_spec.shapes) == 1 or not len(train):
        return []
    chosen = np.stack(sizes(catalog), 1)[train]
    order = order_spec(catalog.fingerprint, per_source(catalog, train), chosen)
    assert isinstance(order, Buckets)
    return order.occupancy(batch_size)


def thin_buckets(occupancy: Sequence[Occupancy]) -> Iterator[Problem]:
    """Yield a problem for each bucket with fewer samples than a batch."""
    for bucket in occupancy:
        if bucket.copies > 1:
            yield Problem("thin-bucket", "", f"bucket {bucket}")


def _whole(faults: Sequence[tuple[str, str, Mask]]) -> Mask:
    return ~np.logical_or.reduce([samples for _, _, samples in faults])


def _license(catalog: Catalog) -> Callable[[int], str]:
    """Return a function from a sample to a description of its licence."""
    names, index = catalog.licenses()
    called = [*names, UNKNOWN]
    return lambda sample: f"license {called[index[sample]]}"
