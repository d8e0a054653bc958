"""The samples that are checked, read and made into what training sees of them."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from diffusion_train.data.caption.captions import Captions
from diffusion_train.data.image.header import MAX_BYTES
from diffusion_train.data.image.preprocess import View
from diffusion_train.data.order.order import Draw, Shape
from diffusion_train.data.order.resolution import nearest
from diffusion_train.data.shard.catalog import Catalog
from diffusion_train.data.storage.base import Range, Storage

_BYTES_AT_ONCE = 1 << 25


class Member(NamedTuple):
    """`data` is None for more than MAX_BYTES; `intact` that its checksum is that of the index."""

    span: Range
    data: bytes | None
    intact: bool


Members = Mapping[str, Member]


def small_members(members: Members) -> dict[str, bytes]:
    """What those of at most MAX_BYTES hold."""
    return {name: member.data for name, member in members.items() if member.data is not None}


@dataclass(frozen=True, eq=False)
class Samples:
    """`images` names further images of a sample, `shapes` are those of the buckets."""

    catalog: Catalog
    captions: Captions
    view: View
    storage: Storage
    images: Mapping[str, str]
    shapes: Sequence[Shape]

    def read(self, numbers: Sequence[int]) -> Iterator[Members]:
        """All members of each sample."""
        for some in self._batches(numbers):
            small = [span for members in some for span, _ in members.values() if span.size <= MAX_BYTES]
            data = dict(zip(small, self.storage.read(small), strict=True))
            for members in some:
                yield {name: self._member(span, crc, data.get(span)) for name, (span, crc) in members.items()}

    def draw(self, sample: int, width: int, height: int) -> Draw:
        """In epoch 0, in the shape of the bucket of an image of this size."""
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
