"""The contract of text encoders: they embed captions, and an embedding depends only on its caption."""

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
    """Embedding of one caption: text (l, D), pooled (P,), P = 0 if there is none, and whether the caption was cut."""

    text: Tensor
    pooled: Tensor
    truncated: bool

    @property
    def num_bytes(self) -> int:
        return self.text.nbytes + self.pooled.nbytes

    def copy(self) -> Embedding:
        """Return a copy with separate memory; a view of a larger tensor would keep all of it alive."""
        return Embedding(self.text.clone(), self.pooled.clone(), self.truncated)


# From captions to pairs of caption and embedding, for those that were embedded before.
PrecomputedEmbeddings = Callable[[Sequence[str]], Iterable[tuple[str, Embedding]]]


class TextEncoder(ABC):
    """Embeds captions. It is no nn.Module, so that the conditioner neither trains nor saves its weights."""

    max_length: int  # in tokens; longer captions are cut
    longest: int | None = None  # up to which max_length can be raised; None: without limit
    padded: bool = False  # whether captions are padded to max_length, and networks attend to the padding too

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """A hash of all that determines an embedding: weights, tokenizer, length, precision."""

    @abstractmethod
    def embed(self, captions: Sequence[str], device: torch.device) -> Iterator[tuple[str, Embedding]]:
        """Yield each caption with its embedding in float32 on the CPU, in any order.

        An embedding must not depend on the other captions, to the last bit: a new one equals a cached one.
        """

    def check_weights(self) -> None:  # noqa: B027
        """Raises ValueError if files of the weights are missing, which counting tokens does not need."""

    def unload(self) -> None:  # noqa: B027
        """Free the memory of the weights."""

    def online(self) -> OnlineText:
        """Return the encoder as a module that adapters can train. Raises ValueError if that is not possible."""
        raise ValueError(
            f"adapter.text_encoder: {type(self).__name__} cannot be trained; leave it out, or use a text encoder of "
            "Stable Diffusion 1, 2 or XL"
        )


class FrozenText(Protocol):
    """A part of a conditioner that embeds captions with a frozen encoder."""

    encoder: TextEncoder

    def use_precomputed(self, embeddings: PrecomputedEmbeddings) -> None:
        """Use these embeddings; only captions that they lack are embedded."""
