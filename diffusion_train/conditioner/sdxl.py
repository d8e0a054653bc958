"""The conditions of Stable Diffusion XL: two texts side by side, and sizes.

Podell et al. 2024, "SDXL: Improving Latent Diffusion Models for High-Resolution Image Synthesis", sections 2.1 and 2.2.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffusion_train.conditioner.base import Cond, Conditioner
from diffusion_train.conditioner.text.encoder import Embedding, FrozenText, TextEncoder
from diffusion_train.conditioner.text.online_text import OnlineText
from diffusion_train.conditioner.text.text_conditioner import Text
from diffusion_train.conditioner.text.text_store import MAX_BYTES
from diffusion_train.conditioner.text.transformers_encoder import (
    TransformersEncoder,
    layer_before_last,
    no_pool,
    projected_pool,
)
from diffusion_train.utils.tensor import to_device

_AT_ONCE = 64  # captions whose first half is kept until the second one is there; whole batches of the encoders


class SDXL(Conditioner):
    """`text` (B, 77, D1 + D2), `pooled` (B, P) and `size` (B, 6). `source` is a pipeline's folder.

    `size`: height and width of the original image, top and left of the crop, height and width of the result, from
    `original_size`, `crop` and `target_size` of the batch; where the last is not there it is that of `x`, and an image
    without the others is its own original.

    No prompt is zeros where the pipeline's model_index.json says so, as the base model was trained, and an empty caption
    otherwise; in training too, so that guidance starts from what dropped captions have taught. (diffusers' own training
    script drops to the empty caption and then samples from zeros.) Sizes stay, as they do when diffusers samples.
    """

    reads_captions = True

    def __init__(self, source: str, max_length: int = 77, max_bytes: int = MAX_BYTES) -> None:
        super().__init__()
        folder = Path(source).expanduser()
        self.zeros_without_prompt = _index(folder).get("force_zeros_for_empty_prompt", True)
        self.encoder = SDXLText(folder, max_length)
        self.text = Text(self.encoder, max_bytes)

    def forward(self, batch: dict[str, Any]) -> Cond:
        cond: Cond = self.text(batch)
        return cond | {"size": _size(batch, self.like.device).expand(len(cond["text"]), 6)}

    def null(self, n: int) -> Cond:
        cond = self.text.null(n)
        return {name: torch.zeros_like(value) for name, value in cond.items()} if self.zeros_without_prompt else cond

    def texts(self) -> list[FrozenText]:
        return self.text.texts()

    def adapt(self, adapter: Callable[[nn.Module], nn.Module]) -> None:
        self.text.adapt(adapter)
        self.adapted = True

    def warm_up(self, captions: Iterable[str]) -> None:
        self.text.warm_up(captions)


class SDXLText(TextEncoder):
    """text: both encoders' layer before the last, side by side; pooled: the second one's projection."""

    padded = True

    def __init__(self, folder: Path, max_length: int = 77) -> None:
        self.max_length = max_length
        options: dict[str, Any] = {"max_length": max_length, "padded": True, "read": layer_before_last}
        parts = [(folder / f"text_encoder{n}", folder / f"tokenizer{n}") for n in ("", "_2")]
        self.first = TransformersEncoder(*parts[0], "CLIPTextModel", pool=no_pool, **options)
        self.second = TransformersEncoder(*parts[1], "CLIPTextModelWithProjection", pool=projected_pool, **options)

    @property
    def fingerprint(self) -> str:
        both = f"sdxl {self.first.fingerprint} {self.second.fingerprint}"
        return hashlib.sha256(both.encode()).hexdigest()[:32]

    def embed(self, captions: Sequence[str], device: torch.device) -> Iterator[tuple[str, Embedding]]:
        for start in range(0, len(captions), _AT_ONCE):
            some = captions[start : start + _AT_ONCE]
            first = dict(self.first.embed(some, device))
            for caption, row in self.second.embed(some, device):
                text = torch.cat([first[caption].text, row.text], 1)
                yield caption, Embedding(text, row.pooled, first[caption].truncated or row.truncated)

    def num_tokens(self, captions: Sequence[str]) -> list[int]:
        """Of each caption, whole; the two encoders share a vocabulary."""
        return self.first.num_tokens(captions)

    def unload(self) -> None:
        self.first.unload()
        self.second.unload()

    def online(self) -> OnlineText:
        return OnlineText({"text_encoder": self.first.part(), "text_encoder_2": self.second.part()})


def _size(batch: dict[str, Any], device: torch.device) -> Tensor:
    """-> (B or 1, 6) float32, in which every size is exact."""
    if "target_size" not in batch and "x" not in batch:
        raise ValueError("SDXL needs 'target_size' (B, 2) or images 'x' in the batch")
    target = batch["target_size"] if "target_size" in batch else torch.tensor([batch["x"].shape[-2:]])
    original, crop = batch.get("original_size", target), batch.get("crop", torch.zeros_like(target))
    parts = [to_device(part, device, torch.float32) for part in (original, crop, target)]
    rows = max(map(len, parts))
    return torch.cat([part.expand(rows, 2) for part in parts], 1)


def _index(folder: Path) -> dict[str, Any]:
    file = folder / "model_index.json"
    if not file.is_file():
        raise ValueError(f"conditioner.source={folder}: holds no model_index.json; give the folder of a pipeline")
    index: dict[str, Any] = json.loads(file.read_text("utf-8"))
    return index
