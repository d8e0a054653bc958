"""Captions as embeddings of a frozen text encoder, each computed once and kept."""

from __future__ import annotations

import os
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any

import torch
from tqdm import tqdm

from diffusion_train.conditioner.base import Cond, Conditioner, entry
from diffusion_train.conditioner.text_store import Embedding, TextStore
from diffusion_train.utils.cache import cache_folder


class TextEncoder(ABC):
    """Not a module, so that its weights are neither trained nor saved with the conditioner that holds it."""

    max_length: int  # tokens of the longest caption that is taken whole

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """A hash of everything that decides an embedding: weights, tokenizer, length, precision."""

    @abstractmethod
    def embed(self, captions: Sequence[str], device: torch.device) -> Iterator[tuple[str, Embedding]]:
        """Each caption's embedding in float32 on the CPU, in any order. A caption's row depends on no other caption."""

    def unload(self) -> None:  # noqa: B027
        """Give back the memory of the weights, if they take any."""


class Text(Conditioner):
    """`text` (B, max_length, D), `text_mask` (B, max_length) and, where the encoder has one, `pooled` (B, P).

    An embedding, once kept, is the one that is used, in this run and the next: it cannot change in its last bits with
    the captions beside it. `warm_up` keeps embeddings in a file of the cache folder; a caption that it did not see is
    embedded when it comes, and kept in memory.
    """

    def __init__(self, encoder: TextEncoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.warned = False
        self.cut: set[str] = set()

    @property
    def num_truncated(self) -> int:
        """How many different captions so far were longer than the encoder takes."""
        return len(self.cut)

    @cached_property
    def store(self) -> TextStore:
        return TextStore(cache_folder() / "text" / f"{self.encoder.fingerprint}.safetensors")

    def forward(self, batch: dict[str, Any]) -> Cond:
        captions = list(entry(batch, "caption", "Text"))
        rows = self._kept(captions)
        rows |= self._embedded([caption for caption in dict.fromkeys(captions) if caption not in rows])
        self._note(rows)
        return self._padded([rows[caption] for caption in captions])

    def warm_up(self, captions: Iterable[str]) -> None:
        wanted = list(dict.fromkeys(["", *captions]))
        self.store.renew(wanted)
        rows = self._kept(wanted)
        if missing := [caption for caption in wanted if caption not in rows]:
            try:
                rows |= self._embedded(missing, progress=os.environ.get("LOCAL_RANK", "0") == "0")
            finally:
                self.store.save()
                self.encoder.unload()
        self._note(rows)

    def _kept(self, captions: Iterable[str]) -> dict[str, Embedding]:
        return {caption: row for caption in captions if (row := self.store.get(caption)) is not None}

    def _embedded(self, captions: list[str], progress: bool = False) -> dict[str, Embedding]:
        rows = {}
        embedded = self.encoder.embed(captions, self.place.device) if captions else iter(())
        bar = tqdm(
            embedded,
            "Embedding captions",
            len(captions),
            unit="caption",
            mininterval=0.5,
            disable=None if progress else True,
        )
        for caption, row in bar:
            rows[caption] = row
            self.store.add(caption, row)
        return rows

    def _padded(self, rows: list[Embedding]) -> Cond:
        length = self.encoder.max_length
        text = torch.zeros(len(rows), length, rows[0].text.shape[1])
        mask = torch.zeros(len(rows), length, dtype=torch.bool)
        for place, row in enumerate(rows):
            text[place, : len(row.text)] = row.text
            mask[place, : len(row.text)] = True
        cond = {"text": text.to(self.place), "text_mask": mask.to(self.place.device)}
        if rows[0].pooled.numel():
            cond["pooled"] = torch.stack([row.pooled for row in rows]).to(self.place)
        return cond

    def _note(self, rows: dict[str, Embedding]) -> None:
        self.cut |= {caption for caption, row in rows.items() if row.truncated}
        if self.cut and not self.warned:
            self.warned = True
            warnings.warn(
                f"{self.num_truncated} captions are longer than the {self.encoder.max_length} tokens that the text encoder "
                f"takes and were cut, for instance {min(self.cut)[:80]!r}; the encoder's max_length sets it",
                stacklevel=3,
            )
