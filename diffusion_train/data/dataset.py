"""Image-caption pairs of shards, one at a time."""

from __future__ import annotations

import copy
import hashlib
import logging
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from diffusion_train.data.caption.captions import Captions
from diffusion_train.data.caption.fault import CaptionError
from diffusion_train.data.caption.source import TextMember
from diffusion_train.data.collection import Collection, Shards, open_shards
from diffusion_train.data.decode import ImageError, decode_image
from diffusion_train.data.index import DataError
from diffusion_train.data.reader import ShardReader
from diffusion_train.data.transform import ImageTransform

log = logging.getLogger(__name__)
Indices = NDArray[np.int64]
TEXT_BESIDE = Captions(TextMember())


class Dataset(Protocol):
    """Samples 0..n-1, each of `shape`; the fingerprint stands for all they hold and for their order."""

    shape: tuple[int, ...]
    fingerprint: str

    def __len__(self) -> int: ...

    def read(self, index: int, draw: int) -> dict[str, Any]:
        """{"x": tensor, "caption": str, "key": str, "index": int, ...}; `draw` (the epoch) keys augmentation."""

    def captions(self, index: int) -> Iterator[str]:
        """Each caption that this sample can come with, as far as they can be listed."""

    def holdout(self) -> Dataset:
        """The samples kept out of this data set, without augmentation."""


class ShardDataset:
    """The training samples of local shards.

    `holdout` is a number of samples (1, 2, ...) or a share (below 1) chosen by hash of their keys; images with a side
    below `min_side` pixels are left out. ValueError for impossible settings, DataError for faulty shards, all at once.
    """

    def __init__(
        self,
        shards: Shards,
        transform: ImageTransform,
        holdout: float = 0,
        min_side: int = 1,
        captions: Captions = TEXT_BESIDE,
        verify: bool = True,
    ) -> None:
        self.transform = transform
        self.shape = transform.shape
        self._captions = captions
        self._collection = open_shards(shards, captions.missing == "error" and captions.extensions == ("txt",))
        self._caption_rows = [
            {extension: shard.rows((extension,))[1] for extension in captions.extensions}
            for shard in self._collection.shards
        ]
        self._reader = ShardReader(self._collection.shards, verify)
        usable = _usable(self._collection, min_side, transform.image_size)
        self._samples, self._held_out = _split(self._collection, usable, holdout)
        self.fingerprint = self._fingerprint()

    def __len__(self) -> int:
        return len(self._samples)

    def holdout(self) -> ShardDataset:
        """In the order of their hashes, so that the first N stay the first N."""
        other = copy.copy(self)
        other._samples, other._held_out = self._held_out, self._samples
        other.transform = self.transform.without_augmentation()
        other.fingerprint = other._fingerprint()
        return other

    def read(self, index: int, draw: int) -> dict[str, Any]:
        """Raises DataError for a sample that is not what was indexed, or whose image cannot be decoded."""
        shard, place = self._collection.locate(int(self._samples[index]))
        row = self._collection.image_rows[shard][place]
        data = self._reader.read(shard, row)
        key = self._collection.shards[shard].key(place)
        try:
            image = decode_image(data, self.transform.background, at_least=self.transform.image_size)
        except ImageError as error:
            where = self._collection.shards[shard]
            offset = where.members["offset"][row]
            raise DataError(f"{where.path} at byte {offset}: image of sample {key!r}: {error}") from error
        tensors = self.transform(image, draw, index)
        try:
            caption = self._captions(self._texts(shard, place), key, draw, index)
        except CaptionError as error:
            raise DataError(f"{self._collection.shards[shard].path}: sample {key!r}: {error}") from error
        return {**tensors, "caption": caption, "key": key, "index": index}

    def captions(self, index: int) -> Iterator[str]:
        shard, place = self._collection.locate(int(self._samples[index]))
        return self._captions.every(self._texts(shard, place), self._collection.shards[shard].key(place))

    def _texts(self, shard: int, place: int) -> dict[str, bytes]:
        rows = {extension: rows[place] for extension, rows in self._caption_rows[shard].items()}
        return {extension: self._reader.read(shard, row) for extension, row in rows.items() if row >= 0}

    def _fingerprint(self) -> str:
        if len(self._samples) == len(self._collection):
            return self._collection.fingerprint
        chosen = hashlib.sha256(self._samples.astype("<i8").tobytes()).hexdigest()
        return hashlib.sha256(f"{self._collection.fingerprint} {chosen}".encode()).hexdigest()


def _usable(collection: Collection, min_side: int, image_size: int) -> Indices:
    sides = collection.sides()
    usable = np.flatnonzero(sides >= min_side)
    if not len(usable):
        raise ValueError(f"data.min_side={min_side}: no image is that large; the largest has {sides.max()} pixels")
    if dropped := len(sides) - len(usable):
        log.warning("%d of %d images have a side below data.min_side=%d: left out", dropped, len(sides), min_side)
    if enlarged := int((sides[usable] < image_size).sum()):
        log.warning("%d of %d images are enlarged to data.image_size=%d", enlarged, len(usable), image_size)
    if ignored := sum(shard.num_ignored for shard in collection.shards):
        log.warning("%d members of the shards are ignored: links, folders, hidden files", ignored)
    return usable


def _split(collection: Collection, usable: Indices, holdout: float) -> tuple[Indices, Indices]:
    """(training samples in their order, held-out samples in the order of their hashes)"""
    if holdout < 0 or (holdout >= 1 and holdout != int(holdout)):
        raise ValueError(f"data.holdout={holdout}: a share below 1 or a whole number of samples")
    if holdout == 0:
        return usable, usable[:0]
    hashes = np.array([_hash(key) for key in collection.all_keys()], np.uint64)[usable]
    by_hash = np.argsort(hashes, kind="stable")
    count = int(holdout) if holdout >= 1 else int((hashes < np.uint64(int(holdout * 2**64))).sum())
    if count >= len(usable):
        raise ValueError(f"data.holdout={holdout} leaves nothing of {len(usable)} samples to train on")
    return usable[np.sort(by_hash[count:])], usable[by_hash[:count]]


def _hash(key: str) -> int:
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big")
