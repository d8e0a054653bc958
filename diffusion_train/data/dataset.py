"""A data set of images and captions in indexed shards."""

from __future__ import annotations

import copy
import hashlib
import itertools
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
from isal.isal_zlib import crc32
from numpy.typing import NDArray

from diffusion_train.data.base import Lookahead, Reading, Sample
from diffusion_train.data.caption.captions import Captions
from diffusion_train.data.caption.csv_column import check_keys
from diffusion_train.data.caption.source import Members, TextMember
from diffusion_train.data.image.preprocess import Preprocess
from diffusion_train.data.lookahead import for_cache
from diffusion_train.data.order.order import Draw, Window
from diffusion_train.data.precomputed.latents import PrecomputedLatents
from diffusion_train.data.sample_decoder import BadSample, SampleDecoder
from diffusion_train.data.selection import Indices, Selection, per_source, sizes
from diffusion_train.data.shard.authors import authors
from diffusion_train.data.shard.catalog import Located
from diffusion_train.data.shard.catalog_builder import Shards, open_shards
from diffusion_train.data.shard.problem import DataError, Problem
from diffusion_train.data.storage.base import split_version
from diffusion_train.data.storage.by_scheme import StorageByScheme
from diffusion_train.data.storage.urls import is_local
from diffusion_train.utils.redact import redact_url
from diffusion_train.utils.rng import key_seed

log = logging.getLogger(__name__)

_CHUNK = 1024  # samples whose captions are read together
_MAX_SUBSTITUTES = 16


class ShardDataset:
    """Images and captions in indexed shards. Sample i is sample `samples[i]` of `catalog`, decoded by `decoder`.

    A sample that differs from the index, or whose image or caption cannot be decoded, is replaced by another one,
    always by the same; "bad" describes it. Raises DataError with all faults of the shards, and StorageError if bytes
    cannot be read.
    """

    def __init__(
        self,
        shards: Shards,
        preprocess: Preprocess,
        captions: Captions | None = None,
        selection: Selection | None = None,
        storage: StorageByScheme | None = None,
        images: Mapping[str, str] | None = None,
        verify: bool = True,
    ) -> None:
        self.storage, captions = storage or StorageByScheme(), captions or Captions(TextMember())
        self.catalog = open_shards(shards, self.storage)
        check_keys(captions, self.catalog)
        self.chosen = (selection or Selection()).choose(self.catalog, captions, set((images or {}).values()))
        self.samples, self.fingerprint = self._numbered(self.chosen.train)
        self.decoder = SampleDecoder(preprocess, captions, dict(images or {}), verify)
        side = preprocess.transform.image_size
        if count := int((self.sizes().min(1) < side).sum()):
            log.warning("%d of %d images are enlarged to data.image_size=%d", count, len(self), side)

    def __len__(self) -> int:
        return len(self.samples)

    def read(self, draws: Sequence[Draw]) -> list[Sample]:
        return self.begin(draws).finish()

    def begin(self, draws: Sequence[Draw]) -> Reading:
        return self._begin(draws, self._decode_or_replace)

    def _begin(self, draws: Sequence[Draw], decode: Callable[[Draw, str, Located, Members, bool], Sample]) -> Reading:
        located = self._locate(draws)
        flat = [one for members in located for one in members.values()]
        num_bytes, finish = self.storage.begin([range_ for range_, _ in flat])

        def samples() -> list[Sample]:
            parts = finish()
            is_sound = not self.decoder.verify or list(map(crc32, parts)) == [crc for _, crc in flat]
            rest = iter(parts)
            members = [{name: next(rest) for name in names} for names in located]
            keys = self.catalog.keys(self._numbers(draws))
            return list(map(decode, draws, keys, located, members, itertools.repeat(is_sound)))

        return Reading(num_bytes, samples)

    def prefetch(self, draws: Sequence[Draw]) -> bool:
        """Start to fetch the bytes of these draws into the cache; return False if too many blocks are queued."""
        return self.storage.prefetch([range_ for members in self._locate(draws) for range_, _ in members.values()])

    def _locate(self, draws: Sequence[Draw]) -> list[Located]:
        return self.decoder.locate(self.catalog, self._numbers(draws), draws)

    def _numbers(self, draws: Sequence[Draw]) -> Indices:
        return self.samples[[draw.sample for draw in draws]]

    def _decode_or_replace(self, draw: Draw, key: str, located: Located, members: Members, is_sound: bool) -> Sample:
        try:
            return self.decoder.decode(draw, key, located, members, is_sound)
        except BadSample as error:
            bad = error
        for attempt in range(_MAX_SUBSTITUTES):
            index = key_seed("substitute", self.fingerprint, draw.sample, attempt) % len(self.samples)
            with suppress(BadSample):
                [other] = self._begin([draw._replace(sample=index)], self.decoder.decode).finish()
                return {**other, "bad": bad.line()}
        raise DataError(f"{bad}; {_MAX_SUBSTITUTES} other samples were tried as substitutes and cannot be read either")

    def lookahead(self, windows: Sequence[Window], fraction: float) -> Lookahead:
        """Return how far to read ahead: by bytes in memory, or by samples if there is a cache for remote shards."""
        collections = [self.catalog, *(self.decoder.latents.collections if self.decoder.latents else [])]
        num_bytes = sum(
            split_version(version)[0]
            for catalog in collections
            for url, version in zip(catalog.urls, catalog.versions, strict=True)
            if not is_local(url)
        )
        cache = self.storage.cache
        if not num_bytes or not cache:
            return Lookahead(self.storage.ahead_bytes)
        mine = [window._replace(num_samples=math.ceil(window.num_samples * fraction)) for window in windows]
        cached = for_cache(mine, num_bytes / len(self), num_bytes, cache.max_bytes, cache.block_bytes)
        return cached._replace(num_samples=math.ceil(cached.num_samples / fraction) if self.storage.ahead_bytes else 0)

    @property
    def num_retries(self) -> int:
        return self.storage.num_retries

    @property
    def shape(self) -> tuple[int, ...]:
        return self.decoder.preprocess.transform.shape

    @property
    def sources(self) -> Mapping[str, int]:
        return per_source(self.catalog, self.samples)

    @property
    def caption_settings(self) -> str:
        return self.decoder.captions.settings

    @property
    def problems(self) -> Sequence[Problem]:
        return self.chosen.problems

    @property
    def facts(self) -> Mapping[str, Any]:
        """Sources, licences, authors, shards with their digests, and the number of samples left out by reason."""
        names, index = self.catalog.licenses()
        counts = np.bincount(index[self.samples] + 1, minlength=len(names) + 1).tolist()
        meta = self.catalog.meta
        return {
            "sources": dict(self.sources),
            "left_out": dict(self.chosen.left_out),
            "licenses": {name: count for name, count in zip(["unknown", *names], counts, strict=True) if count},
            "authors": authors(self.catalog, self.samples, self.storage),
            "shards": [
                {"shard": redact_url(url), "version": version, "digest": digest}
                for url, version, digest in zip(self.catalog.urls, self.catalog.versions, meta["digests"], strict=True)
            ],
        }

    def sample_ids(self) -> NDArray[np.uint64]:
        return self.catalog.sample_ids(self.samples)

    def sizes(self) -> NDArray[np.int64]:
        return np.stack(sizes(self.catalog), 1)[self.samples]

    def captions(self) -> Iterator[str]:
        """Yield every caption that samples can have; ends at a chunk of samples of which none can be listed."""
        return (caption for _, caption in self._listed_captions())

    def unusable_captions(self, check: Callable[[str], object]) -> Iterator[Problem]:
        """Yield a problem for each sample with a caption for which `check` raises ValueError.

        Only captions that can be listed are checked, and only of local shards: reading all of a remote one takes long.
        """
        if not all(map(is_local, self.catalog.urls)):
            return
        for sample, caption in self._listed_captions():
            try:
                check(caption)
            except ValueError as error:
                shard, key = self.catalog.printable_shard(sample), self.catalog.key(sample)
                yield Problem("malformed-caption", shard, str(error), key)

    def _listed_captions(self) -> Iterator[tuple[int, str]]:
        """Yield (sample of the catalog, caption)."""
        captions = self.decoder.captions
        for start in range(0, len(self), _CHUNK):
            numbers = self.samples[start : start + _CHUNK]
            located = self.catalog.members_of(numbers, captions.extensions)
            parts = iter(self.storage.read([range_ for members in located for range_, _ in members.values()]))
            listed = False
            for number, key, members in zip(numbers.tolist(), self.catalog.keys(numbers), located, strict=True):
                texts = {name: next(parts) for name in members}
                with suppress(ValueError):  # a bad sample, reported when it is read
                    for caption in captions.every(texts, key):
                        listed = True
                        yield number, caption
            if not listed:
                return  # as with shuffled tags; reading a huge data set for a few captions would take long

    def holdout(self) -> ShardDataset:
        """Return the held-out samples in the order of their hashes, so that the first N stay the same as data grow."""
        return self.without_augmentation()._with(samples=self.chosen.held_out)

    def without_augmentation(self) -> ShardDataset:
        return self._with(replace(self.decoder, preprocess=self.decoder.preprocess.without_augmentation()))

    def oriented(self, mirrored: bool) -> ShardDataset:
        """Return a data set in which every image is mirrored, or none."""
        return self._with(replace(self.decoder, preprocess=self.decoder.preprocess.oriented(mirrored)))

    def with_latents(self, latents: PrecomputedLatents) -> ShardDataset:
        """Return a data set with "moments" in place of "x", which reads no images. Missing latents raise NoLatents."""
        return self._with(replace(self.decoder, latents=latents))

    def only(self, sources: Sequence[str]) -> ShardDataset:
        """Return the data set of these sources. Raises ValueError for an unknown source."""
        if unknown := [name for name in sources if name not in self.sources]:
            raise ValueError(f"sources: must be among {', '.join(self.sources)}, got {unknown[0]!r}")
        ends = self.catalog.source_ends()
        source = np.searchsorted(list(ends.values()), self.samples, side="right")
        return self._with(samples=self.samples[np.isin(source, [list(ends).index(name) for name in sources])])

    def _with(self, decoder: SampleDecoder | None = None, samples: Indices | None = None) -> ShardDataset:
        other = copy.copy(self)
        other.decoder = decoder or self.decoder
        if samples is not None:
            other.samples, other.fingerprint = self._numbered(samples)
        return other

    def _numbered(self, samples: Indices) -> tuple[Indices, str]:
        """Return samples of the catalog and their fingerprint."""
        whole = self.catalog.fingerprint
        if len(samples) == len(self.catalog):
            return samples, whole
        chosen = hashlib.sha256(samples.astype("<i8").tobytes()).hexdigest()
        return samples, hashlib.sha256(f"{whole} {chosen}".encode()).hexdigest()
