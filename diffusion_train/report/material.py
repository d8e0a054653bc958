"""What a report looks at: images of the data, prompts, and images as features and hashes see them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from diffusion_train import config
from diffusion_train.data.collate import collate
from diffusion_train.data.near_duplicates import SIGNATURE, Signatures, signature
from diffusion_train.data.order import Draw
from diffusion_train.metric.extractor import Extractor
from diffusion_train.picture import to_image
from diffusion_train.pipeline import take

GENERAL = (  # for a base whose own captions are not here
    "a photo of a dog", "a bowl of fruit on a table", "a city street at night", "a portrait of an old man",
    "a mountain lake in the morning", "a red bicycle", "an oil painting of a harbour", "a cup of coffee",
    "a child flying a kite", "a wooden chair", "a tree in autumn", "a steam locomotive", "a cat asleep on a sofa",
    "a bridge over a river", "a drawing of a house", "a field of sunflowers",
)  # fmt: skip
_SIZES = ("original_size", "crop")  # of the image that a caption stands beside, which is not asked for
_CHUNK = 256  # samples read at once


class Seen(NamedTuple):
    """Images (N, C, H, W) in [-1, 1] with their features (N, D) and perceptual hashes (N,)."""

    x: Tensor
    features: Tensor
    signatures: Signatures

    def rows(self, places: Sequence[int] | Tensor) -> Seen:
        chosen = torch.as_tensor(places, dtype=torch.long)
        return Seen(self.x[chosen], self.features[chosen], self.signatures[chosen.numpy()])


class Images(NamedTuple):
    """Images of a data set as a batch; `total` is how many there are, over which these are spread evenly."""

    batch: dict[str, Any]
    total: int

    def __len__(self) -> int:
        return len(self.batch["caption"])


class Prompts(NamedTuple):
    """Conditions, a row each, and where they come from in words."""

    conditions: dict[str, Any]
    origin: str

    def __len__(self) -> int:
        return len(self.conditions["caption"])


def see(x: Tensor, extractor: Extractor) -> Seen:
    hashes = b"".join(signature(to_image(image).convert("RGB")) for image in x)
    return Seen(x, extractor(x).float().cpu(), np.frombuffer(hashes, SIGNATURE))


def together(one: Seen, other: Seen) -> Seen:
    parts = zip(one[:2], other[:2], strict=True)
    x, features = (torch.cat(part) for part in parts)
    return Seen(x, features, np.concatenate([one.signatures, other.signatures]))


def training_and_held_out(cfg: Any, most: int) -> tuple[Images, Images]:
    """Of a run's data, as it is trained on but without augmentation. Raises ValueError for data that are no images."""
    module = config.build(cfg.data.module)
    if not hasattr(module, "dataset"):  # a stream
        return _images(module.examples(most)), _images(module.held_out(most))
    if len(module.shape) != 3:
        raise ValueError(f"a report is for runs on images, not on data of shape {tuple(module.shape)}")
    return _spread(module.dataset.without_augmentation(), most), _spread(module.holdout, most)


def choose_prompts(given: Sequence[str], sources: Sequence[tuple[Images, str]], most: int) -> Prompts:
    """Those given; else captions of the first images that there are, `most` spread evenly, each with its conditions.

    A caption that stands beside several images is taken once. Nothing at all gives no prompts.
    """
    if given:
        return Prompts({"caption": list(given)}, "given")
    for images, origin in sources:
        if len(images):
            first = {text: row for row, text in reversed(list(enumerate(images.batch["caption"])))}
            rows, count = sorted(first.values()), min(most, len(first))
            batch = {name: values for name, values in images.batch.items() if name not in _SIZES}
            return Prompts(take(batch, [rows[place * len(rows) // count] for place in range(count)]), origin)
    return Prompts({"caption": []}, "none")


def base_data(cfg: Any, most: int) -> tuple[Images, Images] | None:
    """Of the run that `pretrained` names; None if it is no run of ours or its data are not here."""
    if not cfg.pretrained or not (Path(cfg.pretrained) / "config.yaml").is_file():
        return None
    try:
        return training_and_held_out(config.load_run_config(Path(cfg.pretrained)), most)
    except (ValueError, OSError):
        return None


def _images(batch: dict[str, Any] | None) -> Images:
    batch = batch or {"caption": [], "key": []}
    return Images(batch, len(batch["caption"]))


def _spread(dataset: Any, most: int) -> Images:
    count = min(most, len(dataset))
    places = [place * len(dataset) // count for place in range(count)]
    samples: list[dict[str, Any]] = []
    for start in range(0, count, _CHUNK):
        samples += dataset.read([Draw(0, place) for place in places[start : start + _CHUNK]])
    return Images(collate(samples) if samples else {"caption": [], "key": []}, len(dataset))
