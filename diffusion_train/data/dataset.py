"""Image-caption pairs of shards, a batch at a time."""

from __future__ import annotations

import copy
import hashlib
import json
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, Protocol

import numpy as np
from isal.isal_zlib import crc32
from numpy.typing import NDArray

from diffusion_train.data.ahead import Lookahead, Reading, for_cache
from diffusion_train.data.caption.captions import Captions
from diffusion_train.data.caption.source import TextMember
from diffusion_train.data.decode import IMAGE_EXTENSIONS
from diffusion_train.data.encoded import PLAIN, EncodedImages, Members
from diffusion_train.data.header import ImageError
from diffusion_train.data.opening import Shards, open_shards
from diffusion_train.data.order import Draw, Window
from diffusion_train.data.problem import DataError, Problem
from diffusion_train.data.selection import Selection, per_source, sizes
from diffusion_train.data.storage.base import Range, split_version
from diffusion_train.data.storage.by_scheme import StorageByScheme, is_remote
from diffusion_train.data.unmatched import tell_unmatched
from diffusion_train.data.view import View
from diffusion_train.utils.redact import redact_url
from diffusion_train.utils.rng import key_seed

log = logging.getLogger(__name__)

Sample = dict[str, Any]
Data = Mapping[str, tuple[bytes, Range, int]]  # member: contents, where they lie, the checksum they should have
_MAX_SUBSTITUTES = 16
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
    """The training samples of shards.

    A sample that cannot be read as it was indexed, or whose image or caption cannot be decoded, is replaced by another
    one, always the same for it; "bad" tells of it. `images` names further image members of a sample, such as
    {"mask": "mask.png"}. DataError for faulty shards, all at once; StorageError where they cannot be read.
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
        self.view, self.storage, self.verify = view, storage or StorageByScheme(), verify
        self.caption_source = captions or Captions(TextMember())
        self.images = dict(images or {})
        self.encoded: EncodedImages | None = None
        self.collection = open_shards(shards, self.storage)
        tell_unmatched(self.caption_source, self.collection)
        self.chosen = (selection or Selection()).choose(self.collection, self.caption_source)
        self._use(self.chosen.train)
        self._tell_enlarged()

    def _use(self, samples: NDArray[np.int64]) -> None:
        self.samples = samples
        self.fingerprint = self.collection.fingerprint
        if len(samples) < len(self.collection):
            chosen = hashlib.sha256(samples.astype("<i8").tobytes()).hexdigest()
            self.fingerprint = hashlib.sha256(f"{self.fingerprint} {chosen}".encode()).hexdigest()

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.view.transform.shape

    @property
    def sources(self) -> Mapping[str, int]:
        return per_source(self.collection, self.samples)

    def names(self) -> NDArray[np.uint64]:
        return self.collection.names(self.samples)

    def sizes(self) -> NDArray[np.int64]:
        return np.stack(sizes(self.collection), 1)[self.samples]

    @property
    def caption_settings(self) -> str:
        return self.caption_source.settings

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
        other = self.without_augmentation()
        other._use(self.chosen.held_out)
        return other

    def with_latents(self, encoded: EncodedImages) -> ShardDataset:
        """Its samples hold "moments" in place of "x", and images are not read. DataError for one that is not there."""
        other = copy.copy(self)
        other.encoded = encoded
        return other

    def oriented(self, mirrored: bool) -> ShardDataset:
        """Every image mirrored, or none."""
        other = copy.copy(self)
        other.view = self.view.oriented(mirrored)
        return other

    def without_augmentation(self) -> ShardDataset:
        other = copy.copy(self)
        other.view = self.view.without_augmentation()
        return other

    @property
    def num_retries(self) -> int:
        return self.storage.num_retries

    def read(self, draws: Sequence[Draw]) -> list[Sample]:
        return self.begin(draws).finish()

    def begin(self, draws: Sequence[Draw]) -> Reading:
        numbers, wanted = self._wanted(draws)
        ranges = [place for members in wanted for place, _ in members.values()]
        finish = self.storage.begin(ranges)

        def samples() -> list[Sample]:
            parts = iter(finish())
            made = []
            for draw, key, members in zip(draws, self.collection.keys(numbers), wanted, strict=True):
                data = {name: (next(parts), place, crc) for name, (place, crc) in members.items()}
                made.append(self._made_or_replaced(draw, key, data))
            return made

        return Reading(sum(place.size for place in ranges), samples)

    def prefetch(self, draws: Sequence[Draw]) -> bool:
        _, wanted = self._wanted(draws)
        return self.storage.prefetch([place for members in wanted for place, _ in members.values()])

    def lookahead(self, windows: Sequence[Window], share: float) -> Lookahead:
        places = zip(self.collection.urls, self.collection.versions, strict=True)
        num_bytes = sum(split_version(version)[0] for url, version in places if is_remote(url))
        cache = self.storage.cache
        if not num_bytes or not cache:
            return Lookahead(self.storage.ahead_bytes if num_bytes else 0)
        mine = [window._replace(num_samples=math.ceil(window.num_samples * share)) for window in windows]
        there = for_cache(mine, num_bytes / len(self), num_bytes, cache.max_bytes, cache.block_bytes)
        return there._replace(num_samples=math.ceil(there.num_samples / share) if self.storage.ahead_bytes else 0)

    def _wanted(self, draws: Sequence[Draw]) -> tuple[NDArray[np.int64], list[Members]]:
        """Their numbers in the collection, and the members that are read of each."""
        numbers = self.samples[[draw.sample for draw in draws]]
        members = self.collection.members_of(numbers, self._names())
        if self.encoded is not None:
            members = self.encoded.in_place(members, self.collection, numbers, self.view, draws)
        return numbers, members

    def captions(self) -> Iterator[str]:
        for start in range(0, len(self), _CHUNK):
            numbers = self.samples[start : start + _CHUNK]
            wanted = self.collection.members_of(numbers, self.caption_source.extensions)
            parts = iter(self.storage.read([place for members in wanted for place, _ in members.values()]))
            listed = False
            for key, members in zip(self.collection.keys(numbers), wanted, strict=True):
                texts = {name: next(parts) for name in members}
                with suppress(ValueError):  # a bad sample, told when it is read
                    for caption in self.caption_source.every(texts, key):
                        listed = True
                        yield caption
            if not listed:
                return  # as with drawn tags: to read all of a huge data set for a few would take long

    def _tell_enlarged(self) -> None:
        """Images below the size trained at come in, but not in silence."""
        side = self.view.transform.image_size
        if count := int((self.sizes().min(1) < side).sum()):
            log.warning("%d of %d images are enlarged to data.image_size=%d", count, len(self), side)

    def _names(self) -> set[str]:
        """What is read of a sample: its image, further images, what its caption and view are made of."""
        return {*self.caption_source.extensions, *IMAGE_EXTENSIONS, *self.images.values(), *self.view.extensions}

    def _made_or_replaced(self, draw: Draw, key: str, data: Data) -> Sample:
        try:
            return self._made(draw, key, data)
        except BadSample as error:
            return self._substitute(draw, error)

    def _substitute(self, draw: Draw, bad: BadSample) -> Sample:
        for attempt in range(_MAX_SUBSTITUTES):
            index = key_seed("substitute", self.fingerprint, draw.sample, attempt) % len(self)
            other = draw._replace(sample=index)
            [number], [members] = self._wanted([other])
            parts = self.storage.read([place for place, _ in members.values()])
            data = {name: (part, *found) for part, (name, found) in zip(parts, members.items(), strict=True)}
            try:
                return {**self._made(other, self.collection.key(number), data), "bad": bad.told()}
            except BadSample:
                continue
        raise DataError(f"{bad}; none of {_MAX_SUBSTITUTES} other samples tried in its place can be read either")

    def _made(self, draw: Draw, key: str, data: Data) -> Sample:
        members = {name: self._checked(key, *found) for name, found in data.items()}
        image = next(name for name in members if name == PLAIN or name in IMAGE_EXTENSIONS)
        try:
            caption = self.caption_source(members, key, draw.epoch, draw.sample)
            texts = self.caption_source.said(members, key)
            if image == PLAIN:
                tensors = EncodedImages.tensors(members, self.view, draw, texts)
            else:
                others = {name: self._other(members, extension) for name, extension in self.images.items()}
                tensors = self.view(members[image], draw, texts, others, members.get("json"))
        except ValueError as error:
            raise BadSample(key, data[image][1], str(error), getattr(error, "rule", "bad-sample")) from error
        if self.encoded is not None and image != PLAIN:
            raise DataError(f"sample {key!r} has no latents in data.encoded; `diffusion-train encode` makes them")
        return {**tensors, "caption": caption, "key": key, "index": draw.sample, "bad": ""}

    def _other(self, members: Mapping[str, bytes], extension: str) -> bytes:
        if extension not in members:
            raise ImageError(f"no {extension}")
        return members[extension]

    def _checked(self, key: str, data: bytes, place: Range, crc: int) -> bytes:
        if self.verify and crc32(data) != crc:
            raise BadSample(key, place, "the checksum differs from the index: the shard was damaged or changed")
        return data


class BadSample(Exception):
    """A sample that is not what was indexed or cannot be decoded."""

    def __init__(self, key: str, place: Range, reason: str, rule: str = "bad-sample") -> None:
        super().__init__(f"{redact_url(place.url)} at byte {place.offset}: sample {key!r}: {reason}")
        self.problem = Problem(rule, redact_url(place.url), reason, key, place.offset)

    def told(self) -> str:
        """A line of JSON: plain text travels from worker processes and through Lightning unchanged."""
        return json.dumps(vars(self.problem))
