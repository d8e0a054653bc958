"""The samples that `check` reads, and how training would draw them."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from diffusion_train.data.caption.captions import Captions
from diffusion_train.data.image.header import MAX_BYTES
from diffusion_train.data.image.preprocess import Preprocess
from diffusion_train.data.order.order import Draw, Shape
from diffusion_train.data.order.resolution import nearest
from diffusion_train.data.shard.catalog import Catalog
from diffusion_train.data.storage.base import Range, Storage

_BYTES_AT_ONCE = 1 << 25


class Member(NamedTuple):
    """A member of a sample.

    `data` is None if it has more than MAX_BYTES; `intact` if its checksum is that of the index.
    """

    span: Range
    data: bytes | None
    intact: bool


Members = Mapping[str, Member]


def small_members(members: Members) -> dict[str, bytes]:
    """Return the contents of members of at most MAX_BYTES, by name."""
    return {name: member.data for name, member in members.items() if member.data is not None}


@dataclass(frozen=True, eq=False)
class Samples:
    """Reads samples. `images` names their further images, as in data.images; `shapes` are those of the buckets."""

    catalog: Catalog
    captions: Captions
    preprocess: Preprocess
    storage: Storage
    images: Mapping[str, str]
    shapes: Sequence[Shape]

    def read(self, numbers: Sequence[int]) -> Iterator[Members]:
        """Yield all members of each sample. Raises StorageError."""
        for some in self._batches(numbers):
            small = [span for members in some for span, _ in members.values() if span.size <= MAX_BYTES]
            data = dict(zip(small, self.storage.read(small), strict=True))
            for members in some:
                yield {name: self._member(span, crc, data.get(span)) for name, (span, crc) in members.items()}

    def draw(self, sample: int, width: int, height: int) -> Draw:
        """Return the draw of a sample in epoch 0, in the bucket of an image of this size (pixels)."""
        span = nearest(np.array([width]), np.array([height]), self.shapes) if len(self.shapes) > 1 else [0]
        return Draw(0, sample, self.shapes[int(span[0])])

    def _batches(self, numbers: Sequence[int]) -> Iterator[list[dict[str, tuple[Range, int]]]]:
        batch: list[dict[str, tuple[Range, int]]] = []
        size = 0
        for members in self.catalog.members_of(numbers):
            batch.append(members)
            size += sum(span.size for span, _ in members.values())
            if size > _BYTES_AT_ONCE:
                yield batch
                batch, size = [], 0
        if batch:
            yield batch

    def _member(self, span: Range, crc: int, data: bytes | None) -> Member:
        found = zlib.crc32(data) if data is not None else 0
        if data is None:
            for offset in range(0, span.size, MAX_BYTES):
                size = min(MAX_BYTES, span.size - offset)
                [part] = self.storage.read([span._replace(offset=span.offset + offset, size=size)])
                found = zlib.crc32(part, found)
        return Member(span, data, found == crc)
