"""The contract of text encoders: captions -> embeddings, each a function of its caption alone."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from diffusion_train.conditioner.text.online_text import OnlineText


@dataclass(frozen=True)
class Embedding:
    """A caption as its encoder sees it: text (l, D), pooled (P,), P = 0 where there is none, and whether it was cut."""

    text: Tensor
    pooled: Tensor
    truncated: bool

    @property
    def num_bytes(self) -> int:
        return self.text.nbytes + self.pooled.nbytes

    def copy(self) -> Embedding:
        """With memory of its own: a row of a larger tensor keeps all of that alive."""
        return Embedding(self.text.clone(), self.pooled.clone(), self.truncated)


# Captions -> the embeddings of those that were embedded before.
PrecomputedEmbeddings = Callable[[Sequence[str]], Iterable[tuple[str, Embedding]]]


class TextEncoder(ABC):
    """Not a module, so that its weights are neither trained nor saved with the conditioner that holds it."""

    max_length: int  # tokens of the longest caption that is taken whole
    padded: bool = False  # every caption fills all positions, and networks attend to all of them

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """A hash of everything that decides an embedding: weights, tokenizer, length, precision."""

    @abstractmethod
    def embed(self, captions: Sequence[str], device: torch.device) -> Iterator[tuple[str, Embedding]]:
        """Each caption's embedding in float32 on the CPU, in any order.

        A caption's row depends, to the last bit, on no other caption: one that is embedded now equals one that was kept.
        """

    def unload(self) -> None:  # noqa: B027
        """Give back the memory of the weights, if they take any."""

    def online(self) -> OnlineText:
        """As a module, for adapters to be placed in. ValueError for an encoder that this cannot be done with."""
        raise ValueError(
            f"adapter.text_encoder: {type(self).__name__} stays frozen, only text encoders of Stable Diffusion 1, 2 and XL "
            "can be trained; leave it out"
        )


class FrozenText(Protocol):
    """A part of a conditioner that embeds captions by an encoder that stays as it is."""

    encoder: TextEncoder

    def use_precomputed(self, embeddings: PrecomputedEmbeddings) -> None:
        """Takes the embeddings of captions from there, as far as they are there, before it embeds any."""
