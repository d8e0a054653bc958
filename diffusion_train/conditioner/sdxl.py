"""The conditions of Stable Diffusion XL: the embeddings of two text encoders, and image sizes.

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

_AT_ONCE = 64  # captions embedded by the first encoder before the second; a multiple of the encoders' batch size


class SDXL(Conditioner):
    """Returns `text` (B, max_length, D1 + D2), `pooled` (B, P) and `size` (B, 6). `source` is the folder of a pipeline.

    `size` is height and width of the original image, top and left of the crop, and height and width of the result, from
    `original_size`, `crop` and `target_size` of the batch. Their defaults are `target_size`, (0, 0) and the size of
    `x`.

    "No prompt" is zeros if the pipeline's model_index.json says so, as the base model was trained, else an empty
    caption. Training drops captions to the same values, so that guidance uses what dropped captions trained. (The
    training script of diffusers drops to the empty caption, but samples from zeros.) Sizes are never dropped, as in
    diffusers.
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
    """Embeds captions with both encoders of SDXL.

    text concatenates the features of their layer before the last; pooled is the projection of the second encoder.
    """

    padded = True

    def __init__(self, folder: Path, max_length: int = 77) -> None:
        self.max_length = max_length
        options: dict[str, Any] = {"max_length": max_length, "padded": True, "read": layer_before_last}
        parts = [(folder / f"text_encoder{n}", folder / f"tokenizer{n}") for n in ("", "_2")]
        self.first = TransformersEncoder(*parts[0], "CLIPTextModel", pool=no_pool, **options)
        self.second = TransformersEncoder(*parts[1], "CLIPTextModelWithProjection", pool=projected_pool, **options)
        self.longest = self.first.longest

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
        """Return the number of tokens of each caption, uncut; the two encoders share a vocabulary."""
        return self.first.num_tokens(captions)

    def check_weights(self) -> None:
        self.first.check_weights()
        self.second.check_weights()

    def unload(self) -> None:
        self.first.unload()
        self.second.unload()

    def online(self) -> OnlineText:
        return OnlineText({"text_encoder": self.first.part(), "text_encoder_2": self.second.part()})


def _size(batch: dict[str, Any], device: torch.device) -> Tensor:
    """Return the sizes (B or 1, 6) in float32, which holds every size exactly."""
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
