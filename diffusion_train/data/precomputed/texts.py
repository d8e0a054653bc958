"""Embeddings of captions by `diffusion-train encode`, in place of text encoders."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from isal.isal_zlib import crc32
from safetensors.torch import load
from torch import Tensor

from diffusion_train.data.precomputed.entries import Entries, address
from diffusion_train.data.storage.base import StorageError

log = logging.getLogger(__name__)

_AT_ONCE = 64  # embeddings read together; one may have a megabyte


class PrecomputedText(NamedTuple):
    """The embedding of a caption: text (l, D), pooled (P,) with P = 0 if there is none, and whether it is truncated."""

    text: Tensor
    pooled: Tensor
    truncated: bool


class PrecomputedTexts:
    """The precomputed embeddings of an encoder with this fingerprint."""

    def __init__(self, entries: Entries, encoder: str) -> None:
        self.entries, self.encoder = entries, encoder

    def address(self, caption: str) -> str:
        return address("text", self.encoder, caption)

    def missing(self, captions: Sequence[str]) -> list[str]:
        numbers = self.entries.find([self.address(caption) for caption in captions])
        return [caption for caption, number in zip(captions, numbers, strict=True) if number < 0]

    def __call__(self, captions: Sequence[str]) -> Iterator[tuple[str, PrecomputedText]]:
        """Yield (caption, embedding) of captions with an intact entry; the others can be embedded again."""
        numbers = self.entries.find([self.address(caption) for caption in captions])
        found = [(caption, number) for caption, number in zip(captions, numbers, strict=True) if number >= 0]
        for start in range(0, len(found), _AT_ONCE):
            some = found[start : start + _AT_ONCE]
            ranges = self.entries.ranges([number for _, number in some])
            try:
                contents = self.entries.storage.read([part for part, _ in ranges])
            except StorageError as error:
                log.warning("text embeddings of data.encoded cannot be read and are computed again: %s", error)
                return
            for (caption, _), (_, crc), data in zip(some, ranges, contents, strict=True):
                if crc32(data) == crc:
                    tensors = load(data)
                    yield caption, PrecomputedText(tensors["text"], tensors["pooled"], bool(tensors["truncated"]))
