"""Samples and rows of a table of captions that do not find each other."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from itertools import islice

import numpy as np

from diffusion_train.data.caption.captions import Captions
from diffusion_train.data.shard.catalog import Collection
from diffusion_train.data.shard.problem import DataError
from diffusion_train.utils.text import shown

log = logging.getLogger(__name__)
_SHOWN = 3


def tell_unmatched(captions: Captions, collection: Collection) -> None:
    """Once, before anything is read. DataError where not one sample has a row: then keys are written in other ways."""
    if (keys := captions.keys()) is None:
        return
    of_rows = np.array([Collection.hash(key) for key in keys], np.uint64)
    of_samples = collection.arrays["hashes"]
    samples = np.flatnonzero(~np.isin(of_samples, of_rows))
    rows = np.flatnonzero(~np.isin(of_rows, of_samples))
    some = collection.keys(samples[:_SHOWN])
    if len(samples) == len(collection):
        row = f"such as {shown(keys[0])!r}" if keys else "none at all"
        raise DataError(
            f"no sample has a {captions.source.name}: samples are called such as {shown(some[0])!r}, and the table names "
            f"{row}; data.captions.source.key is the column of keys or file names"
        )
    if len(samples):
        log.warning(
            "%d of %d samples have no %s: %s",
            len(samples),
            len(collection),
            captions.source.name,
            _listed(some, samples),
        )
    if len(rows):
        unused = (keys[row] for row in rows[:_SHOWN])
        log.warning(
            "%d of %d keys belong to no sample (%s): %s",
            len(rows),
            len(keys),
            captions.source.name,
            _listed(unused, rows),
        )


def _listed(names: Iterable[str], of: Sequence[int] | np.ndarray) -> str:
    return ", ".join(shown(name) for name in islice(names, _SHOWN)) + (", ..." if len(of) > _SHOWN else "")
