"""Captions as embeddings of a text encoder; those of a frozen encoder are computed once and cached."""

from __future__ import annotations

import itertools
import logging
import os
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from tqdm import tqdm

from diffusion_train.conditioner.base import Cond, Conditioner, entry
from diffusion_train.conditioner.text.encoder import Embedding, FrozenText, PrecomputedEmbeddings, TextEncoder
from diffusion_train.conditioner.text.online_text import OnlineText
from diffusion_train.conditioner.text.text_store import MAX_BYTES, TextStore
from diffusion_train.utils.files import cache_folder
from diffusion_train.utils.tensor import to_device
from diffusion_train.utils.text import printable

log = logging.getLogger(__name__)

MAX_COUNTED = 100_000
_AT_ONCE = 4096  # captions that are read before they are embedded
_SHORT = 1.0  # seconds without a progress bar


class Text(Conditioner):
    """Returns `text` (B, max_length, D), `text_mask` (B, max_length) unless `padded`, and `pooled` (B, P) if any.

    `warm_up` stores embeddings in a file of the cache folder, for this run and the next; other captions are embedded
    when a batch has them. A process holds at most `max_bytes` of embeddings in memory. `use_precomputed` adds
    embeddings that were computed elsewhere. Once the encoder is adapted, captions of every batch are embedded again and
    none are cached.
    """

    online: OnlineText

    reads_captions = True

    def __init__(self, encoder: TextEncoder, max_bytes: int = MAX_BYTES) -> None:
        super().__init__()
        self.encoder = encoder
        self.max_bytes = max_bytes
        self._precomputed: PrecomputedEmbeddings | None = None
        self.long_captions = LongCaptions(encoder.max_length, encoder.longest)

    @cached_property
    def store(self) -> TextStore:
        return TextStore(cache_folder() / "text" / f"{self.encoder.fingerprint}.safetensors", self.max_bytes)

    def forward(self, batch: dict[str, Any]) -> Cond:
        captions = list(entry(batch, "caption", "Text"))
        return self._embedded_online(captions) if self.adapted else self._looked_up(captions)

    def adapt(self, adapter: Callable[[nn.Module], nn.Module]) -> None:
        self.online = self.encoder.online()
        adapter(self.online)
        self.adapted = True

    def _embedded_online(self, captions: list[str]) -> Cond:
        text, pooled, truncated = self.online(captions)
        self.long_captions.add(captions, truncated)
        self.long_captions.report()
        cond = {"text": text.to(self.like)}
        return cond | {"pooled": pooled.to(self.like)} if pooled.numel() else cond

    def _looked_up(self, captions: list[str]) -> Cond:
        rows = self._stored(captions)
        for caption, row in self._embedded([caption for caption in dict.fromkeys(captions) if caption not in rows]):
            rows[caption] = row
            self.store.add(caption, row)
        self.long_captions.add(rows, [row.truncated for row in rows.values()])
        self.long_captions.report()
        return self._padded([rows[caption] for caption in captions])

    def texts(self) -> list[FrozenText]:
        return [] if self.adapted else [self]

    def use_precomputed(self, embeddings: PrecomputedEmbeddings) -> None:
        self._precomputed = embeddings

    def warm_up(self, captions: Iterable[str]) -> None:
        """Embed captions until `max_bytes` are reached; the rest of a huge data set is not read."""
        if self.adapted:
            return
        try:
            num_embedded = self._fill(_different(itertools.chain([""], captions)))
        finally:
            self.store.save()
            self.encoder.unload()
        if self._precomputed is not None and num_embedded:
            log.warning("data.encoded has no embeddings of %d captions; computed them now", num_embedded)
        self.long_captions.report()

    def _stored(self, captions: Collection[str]) -> dict[str, Embedding]:
        rows = {caption: row for caption in captions if (row := self.store.get(caption)) is not None}
        if self._precomputed is not None:
            absent = list(dict.fromkeys(caption for caption in captions if caption not in rows))
            for caption, row in self._precomputed(absent):
                rows[caption] = row
                self.store.add(caption, row, to_file=False)
        return rows

    def _fill(self, captions: Iterator[str]) -> int:
        """Embed captions that are not stored yet, until there are `max_bytes`; return how many were embedded."""
        num_captions, num_embedded, num_bytes, remaining = 0, 0, 0, _progress(captions)
        while chunk := list(itertools.islice(remaining, _AT_ONCE)):
            rows = self._stored(chunk)
            absent = [caption for caption in chunk if caption not in rows]
            num_embedded += len(absent)
            for caption, row in itertools.chain(rows.items(), self._embedded(absent)):
                num_bytes += row.num_bytes
                if num_bytes > self.max_bytes:
                    log.warning(
                        "conditioner.max_bytes=%d has room for the embeddings of only %d captions; the others are "
                        "embedded again each time they are drawn",
                        self.max_bytes,
                        num_captions,
                    )
                    return num_embedded
                num_captions += 1
                self.long_captions.add([caption], [row.truncated])
                if caption not in rows:
                    self.store.add(caption, row)
        return num_embedded

    def _embedded(self, captions: list[str]) -> Iterator[tuple[str, Embedding]]:
        return self.encoder.embed(captions, self.like.device) if captions else iter(())

    def _padded(self, rows: list[Embedding]) -> Cond:
        length = self.encoder.max_length
        cond = {
            "text": self._to_device(torch.stack([pad(row.text, (0, 0, 0, length - len(row.text))) for row in rows]))
        }
        if not self.encoder.padded:
            lengths = torch.tensor([[len(row.text)] for row in rows])
            cond["text_mask"] = to_device(torch.arange(length) < lengths, self.like.device)
        if rows[0].pooled.numel():
            cond["pooled"] = self._to_device(torch.stack([row.pooled for row in rows]))
        return cond

    def _to_device(self, values: Tensor) -> Tensor:
        return to_device(values, self.like.device, self.like.dtype)


def _different(captions: Iterable[str]) -> Iterator[str]:
    seen: set[str] = set()
    for caption in captions:
        if caption not in seen:
            seen.add(caption)
            yield caption


def _progress(captions: Iterable[str]) -> Iterator[str]:
    """Show a progress bar in the first process of each machine, after _SHORT seconds."""
    first = os.environ.get("LOCAL_RANK", "0") == "0"
    bar: Iterable[str] = tqdm(
        captions, "Embedding captions", unit="caption", delay=_SHORT, mininterval=0.5, disable=None if first else True
    )
    return iter(bar)


class LongCaptions:
    """Counts distinct captions that the encoder cut, up to MAX_COUNTED, and warns once."""

    def __init__(self, max_length: int, longest: int | None = None) -> None:
        self.max_length, self.longest = max_length, longest
        self.reported = False
        self._example = ""
        self._hashes: set[int] = set()  # of the captions, to save memory

    def __len__(self) -> int:
        return len(self._hashes)

    def add(self, captions: Iterable[str], truncated: Iterable[bool]) -> None:
        """Count the captions for which `truncated` is true."""
        for caption, cut in zip(captions, truncated, strict=True):
            if cut and len(self) < MAX_COUNTED:
                self._example = self._example or printable(caption)
                self._hashes.add(hash(caption))

    def report(self) -> None:
        """Warn about the captions counted so far, unless a warning was given before."""
        if self._hashes and not self.reported:
            self.reported = True
            can_be_raised = self.longest is None or self.max_length < self.longest
            warnings.warn(
                f"{len(self)} captions are longer than the text encoder's {self.max_length} tokens and were cut, for "
                f"instance '{self._example}'; "
                f"shorten them{', or raise conditioner.encoder.max_length' * can_be_raised}",
                stacklevel=1,
            )
