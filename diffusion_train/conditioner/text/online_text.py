"""Trainable text encoders: their embeddings change with their weights and cannot be cached."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from diffusion_train.utils.tensor import to_device

Tokenize = Callable[[Sequence[str]], tuple[list[list[int]], list[bool]]]
Read = Callable[[Any, Tensor], tuple[Tensor, Tensor]]


class Part:
    """One encoder of an OnlineText.

    `tokenize` returns the ids of captions, all of one length, and whether each was cut. `read` runs `model` on ids (B,
    L) and returns text (B, L, D) and pooled (B, P).
    """

    def __init__(self, model: Any, tokenize: Tokenize, read: Read) -> None:
        self.model, self.tokenize, self.read = model, tokenize, read


class OnlineText(nn.Module):
    """Embeds captions with gradients: returns text (B, L, D), pooled (B, P), and a list of which captions were cut.

    D and P concatenate the features of all `parts`. Parts and weights have the names of published pipelines. Equal
    captions of a batch are embedded once.
    """

    def __init__(self, parts: Mapping[str, Part]) -> None:
        super().__init__()
        self.parts = list(parts.values())
        for name, part in parts.items():
            self.add_module(name, _as_published(part.model))

    def forward(self, captions: Sequence[str]) -> tuple[Tensor, Tensor, list[bool]]:
        different = {caption: row for row, caption in enumerate(dict.fromkeys(captions))}
        texts, pools, cuts = zip(*(self._embed(part, list(different)) for part in self.parts), strict=True)
        rows = [different[caption] for caption in captions]
        truncated = [any(cut[row] for cut in cuts) for row in rows]
        chosen = to_device(torch.tensor(rows), texts[0].device)
        return torch.cat(texts, 2)[chosen], torch.cat(pools, 1)[chosen], truncated

    def _embed(self, part: Part, captions: Sequence[str]) -> tuple[Tensor, Tensor, list[bool]]:
        ids, truncated = part.tokenize(captions)
        device = next(part.model.parameters()).device
        return *part.read(part.model, to_device(torch.tensor(ids), device)), truncated


def _as_published(model: nn.Module) -> nn.Module:
    """Return the model with the prefix text_model of published weights, which some transformers versions omit."""
    return model if hasattr(model, "text_model") else nn.ModuleDict({"text_model": model})
