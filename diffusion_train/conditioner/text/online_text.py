"""Text encoders whose weights may change: nothing that they gave before can be kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from diffusion_train.utils.tensor import to_device

Tokenize = Callable[[Sequence[str]], tuple[list[list[int]], list[bool]]]
Read = Callable[[Any, Tensor], tuple[Tensor, Tensor]]


class Part:
    """One encoder: `tokenize` takes captions to ids, all of one length, and to whether they were cut; `read` runs `model`."""

    def __init__(self, model: Any, tokenize: Tokenize, read: Read) -> None:
        self.model, self.tokenize, self.read = model, tokenize, read


class OnlineText(nn.Module):
    """Captions -> text (B, L, D), side by side of all `parts`, pooled (B, P), and which were cut [B], with gradients.

    The names of its weights are those of published pipelines, by which `parts` are named too. A caption that comes several
    times is embedded once.
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
    """With everything but a projection under text_model, which some versions of transformers leave out."""
    return model if hasattr(model, "text_model") else nn.ModuleDict({"text_model": model})
