"""Image-caption pairs of shards, a batch at a time."""

from __future__ import annotations

import copy
import hashlib
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from diffusion_train.data.caption.captions import Captions
from diffusion_train.data.caption.source import TextMember
from diffusion_train.data.caption.unmatched import tell_unmatched
from diffusion_train.data.image.preprocess import View
from diffusion_train.data.order.order import Draw, Window
from diffusion_train.data.precomputed.encoded import EncodedImages
from diffusion_train.data.read_ahead import Lookahead, Reading, for_cache
from diffusion_train.data.reader import Reader, Sample
from diffusion_train.data.selection import Selection, per_source, sizes
from diffusion_train.data.shard.catalog import Collection
from diffusion_train.data.shard.catalog_builder import Shards, open_shards
from diffusion_train.data.shard.problem import Problem
from diffusion_train.data.storage.base import split_version
from diffusion_train.data.storage.by_scheme import StorageByScheme, is_remote
from diffusion_train.utils.redact import redact_url

log = logging.getLogger(__name__)

_CHUNK = 1024  # samples whose captions are read at once


class Dataset(Protocol):
    """Samples 0..n-1, each of `shape`; the fingerprint stands for all they hold and for their order."""

    shape: tuple[int, ...]
    fingerprint: str
    problems: Sequence[Problem]  # what was left out as faulty
    facts: Mapping[str, Any]  # plain data for the record of a run
    caption_settings: str  # what decides the captions besides seed and data
    num_retries: int  # requests for samples that this process had to repeat

    def __len__(self) -> int: ...

    def read(self, draws: Sequence[Draw]) -> list[Sample]:
        """{"x": tensor, "caption": str, "key": str, "index": int, ...} for each draw; its epoch keys augmentation."""

    def begin(self, draws: Sequence[Draw]) -> Reading:
        """As `read`, which waits for what this returns at once."""

    def prefetch(self, draws: Sequence[Draw]) -> bool:
        """Begins to fetch what they need into a cache; False where too much waits to be fetched already."""

    def lookahead(self, windows: Sequence[Window], share: float) -> Lookahead:
        """How far it is worth to look, where an order has these windows and this machine reads a share of each."""

    @property
    def sources(self) -> Mapping[str, int]:
        """How many samples each source has, in the order of their numbers."""

    def names(self) -> NDArray[np.uint64]:
        """A number for each sample (n,) by which it is known again in other data: a hash of what it is and holds."""

    def sizes(self) -> NDArray[np.int64] | None:
        """Width and height of each sample (n, 2) in pixels, where samples are images of several sizes."""

    def captions(self) -> Iterator[str]:
        """Every caption that any sample can have; of a sample with too many to list, none. Ends where hardly any list theirs."""

    def holdout(self) -> Dataset:
        """The samples kept out of this data set, without augmentation."""


class ShardDataset:
    """The training samples of shards; `reader` reads them, and knows the other settings.

    DataError for faulty shards, all at once; StorageError where they cannot be read.
    """

    def __init__(
        self,
        shards: Shards,
        view: View,
        captions: Captions | None = None,
        selection: Selection | None = None,
        storage: StorageByScheme | None = None,
        images: Mapping[str, str] | None = None,
        verify: bool = True,
    ) -> None:
        storage, captions = storage or StorageByScheme(), captions or Captions(TextMember())
        self.collection = open_shards(shards, storage)
        tell_unmatched(captions, self.collection)
        self.chosen = (selection or Selection()).choose(self.collection, captions)
        samples = self.chosen.train
        fingerprint = _fingerprint(self.collection, samples)
        self.reader = Reader(self.collection, samples, fingerprint, view, captions, dict(images or {}), storage, verify)
        self._tell_enlarged()

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def samples(self) -> NDArray[np.int64]:
        """Numbers in the collection."""
        return self.reader.samples

    @property
    def fingerprint(self) -> str:
        return self.reader.fingerprint

    @property
    def storage(self) -> StorageByScheme:
        return self.reader.storage

    @property
    def shape(self) -> tuple[int, ...]:
        return self.reader.view.transform.shape

    @property
    def sources(self) -> Mapping[str, int]:
        return per_source(self.collection, self.samples)

    def names(self) -> NDArray[np.uint64]:
        return self.collection.names(self.samples)

    def sizes(self) -> NDArray[np.int64]:
        return np.stack(sizes(self.collection), 1)[self.samples]

    @property
    def caption_settings(self) -> str:
        return self.reader.captions.settings

    @property
    def problems(self) -> Sequence[Problem]:
        return self.chosen.problems

    @property
    def facts(self) -> Mapping[str, Any]:
        names, place = self.collection.licenses()
        counts = np.bincount(place[self.samples] + 1, minlength=len(names) + 1).tolist()
        meta = self.collection.meta
        return {
            "sources": dict(self.sources),
            "left_out": dict(self.chosen.left_out),
            "licenses": {name: count for name, count in zip(["unknown", *names], counts, strict=True) if count},
            "shards": [
                {"shard": redact_url(url), "version": version, "digest": digest}
                for url, version, digest in zip(
                    self.collection.urls, self.collection.versions, meta["digests"], strict=True
                )
            ],
        }

    def holdout(self) -> ShardDataset:
        """In the order of their hashes, so that the first N stay the first N."""
        samples = self.chosen.held_out
        return self.without_augmentation()._with(samples=samples, fingerprint=_fingerprint(self.collection, samples))

    def without_augmentation(self) -> ShardDataset:
        return self._with(view=self.reader.view.without_augmentation())

    def oriented(self, mirrored: bool) -> ShardDataset:
        """Every image mirrored, or none."""
        return self._with(view=self.reader.view.oriented(mirrored))

    def with_latents(self, encoded: EncodedImages) -> ShardDataset:
        """Its samples hold "moments" in place of "x", and images are not read. DataError for one that is not there."""
        return self._with(encoded=encoded)

    def only(self, sources: Sequence[str]) -> ShardDataset:
        """The samples of these sources. Raises ValueError for one that there is not."""
        if unknown := [name for name in sources if name not in self.sources]:
            raise ValueError(f"sources: {unknown[0]!r} is no source of the data, which has {', '.join(self.sources)}")
        ends = self.collection.source_ends()
        source = np.searchsorted(list(ends.values()), self.samples, side="right")
        samples = self.samples[np.isin(source, [list(ends).index(name) for name in sources])]
        return self._with(samples=samples, fingerprint=_fingerprint(self.collection, samples))

    def _with(self, **changes: Any) -> ShardDataset:
        other = copy.copy(self)
        other.reader = replace(self.reader, **changes)
        return other

    @property
    def num_retries(self) -> int:
        return self.storage.num_retries

    def read(self, draws: Sequence[Draw]) -> list[Sample]:
        return self.reader.read(draws)

    def begin(self, draws: Sequence[Draw]) -> Reading:
        return self.reader.begin(draws)

    def prefetch(self, draws: Sequence[Draw]) -> bool:
        return self.reader.prefetch(draws)

    def lookahead(self, windows: Sequence[Window], share: float) -> Lookahead:
        num_bytes = sum(
            split_version(version)[0]
            for collection in self.reader.collections
            for url, version in zip(collection.urls, collection.versions, strict=True)
            if is_remote(url)
        )
        cache = self.storage.cache
        if not num_bytes or not cache:
            return Lookahead(self.storage.ahead_bytes)
        mine = [window._replace(num_samples=math.ceil(window.num_samples * share)) for window in windows]
        there = for_cache(mine, num_bytes / len(self), num_bytes, cache.max_bytes, cache.block_bytes)
        return there._replace(num_samples=math.ceil(there.num_samples / share) if self.storage.ahead_bytes else 0)

    def captions(self) -> Iterator[str]:
        for start in range(0, len(self), _CHUNK):
            numbers = self.samples[start : start + _CHUNK]
            wanted = self.collection.members_of(numbers, self.reader.captions.extensions)
            parts = iter(self.storage.read([place for members in wanted for place, _ in members.values()]))
            listed = False
            for key, members in zip(self.collection.keys(numbers), wanted, strict=True):
                texts = {name: next(parts) for name in members}
                with suppress(ValueError):  # a bad sample, told when it is read
                    for caption in self.reader.captions.every(texts, key):
                        listed = True
                        yield caption
            if not listed:
                return  # as with drawn tags: to read all of a huge data set for a few would take long

    def _tell_enlarged(self) -> None:
        """Images below the size trained at come in, but not in silence."""
        side = self.reader.view.transform.image_size
        if count := int((self.sizes().min(1) < side).sum()):
            log.warning("%d of %d images are enlarged to data.image_size=%d", count, len(self), side)


def _fingerprint(collection: Collection, samples: NDArray[np.int64]) -> str:
    """Of some samples of a collection."""
    if len(samples) == len(collection):
        return collection.fingerprint
    chosen = hashlib.sha256(samples.astype("<i8").tobytes()).hexdigest()
    return hashlib.sha256(f"{collection.fingerprint} {chosen}".encode()).hexdigest()
