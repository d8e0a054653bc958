"""Material of a report: images of the data, prompts, and the features and hashes by which images are compared."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate
from torch.utils.data import default_collate

from diffusion_train import config
from diffusion_train.data.image.collate import collate
from diffusion_train.data.order.order import Draw
from diffusion_train.metric.extractor import Extractor
from diffusion_train.metric.near_duplicates import SIGNATURE, Signatures, signature
from diffusion_train.picture import to_image
from diffusion_train.pipeline import select_rows

GENERAL = (  # general prompts for a base whose captions are not available
    "a photo of a dog", "a bowl of fruit on a table", "a city street at night", "a portrait of an old man",
    "a mountain lake in the morning", "a red bicycle", "an oil painting of a harbour", "a cup of coffee",
    "a child flying a kite", "a wooden chair", "a tree in autumn", "a steam locomotive", "a cat asleep on a sofa",
    "a bridge over a river", "a drawing of a house", "a field of sunflowers",
)  # fmt: skip
_SIZES = ("original_size", "crop")  # conditions of the image, which a prompt from its caption does not take over
_CHUNK = 64  # images in memory at once
_SMALL = 64  # most pixels a side of the images that are kept


@dataclass(frozen=True)
class Seen:
    """What is kept of N images: small copies (N, C, h, w) in uint8, features (N, D) and perceptual hashes (N,)."""

    small: Tensor
    features: Tensor
    signatures: Signatures

    def __len__(self) -> int:
        return len(self.small)

    def rows(self, indices: Sequence[int] | Tensor) -> Seen:
        chosen = torch.as_tensor(indices, dtype=torch.long)
        return Seen(self.small[chosen], self.features[chosen], self.signatures[chosen.numpy()])

    def chunks(self) -> Iterator[Tensor]:
        """Yield the small images (n, C, h, w) in [-1, 1], a few at a time."""
        for part in self.small.split(_CHUNK):
            yield part.float() / 127.5 - 1


@dataclass(frozen=True)
class Images:
    """Images spread evenly over a data set of `total` images.

    `batch` holds captions, keys and other conditions. `picture(index)` reads the pixels again: (C, H, W) in [-1, 1].
    """

    batch: dict[str, Any]
    total: int
    seen: Seen | None
    picture: Callable[[int], Tensor]

    def __len__(self) -> int:
        return len(self.batch["caption"])


class Prompts(NamedTuple):
    """Conditions with one row a prompt, and where they come from in words."""

    conditions: dict[str, Any]
    origin: str

    def __len__(self) -> int:
        return len(self.conditions["caption"])


def see(x: Tensor, extractor: Extractor) -> Seen:
    """Return what is kept of images (N, C, H, W) in [-1, 1]."""
    hashes = b"".join(signature(to_image(image).convert("RGB")) for image in x)
    sides = [min(side, _SMALL) for side in x.shape[-2:]]
    small = ((interpolate(x.float(), sides, mode="area") + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return Seen(small.cpu(), extractor(x).float().cpu(), np.frombuffer(hashes, SIGNATURE))


def together(*several: Seen) -> Seen:
    return Seen(
        torch.cat([one.small for one in several]),
        torch.cat([one.features for one in several]),
        np.concatenate([one.signatures for one in several]),
    )


def training_and_held_out(
    cfg: Any, most: int, extractor: Extractor | None = None, sources: Sequence[str] | None = None
) -> tuple[Images, Images]:
    """Return training and held-out images of a run, at most `most` of each, without augmentation.

    `seen` is None without an `extractor`. `sources` restricts the images to these sources of the data. Raises
    ValueError if the data are not images, or have no such source.
    """
    module = config.build(cfg.data).datamodule()
    if not hasattr(module, "dataset"):
        if sources is not None:
            raise ValueError("sources: a data stream has no sources; leave sources out")
        return _of_stream(module.examples(most), extractor), _of_stream(module.held_out(most), extractor)
    if len(module.shape) != 3:
        raise ValueError(f"a report needs a run on images, got data of shape {tuple(module.shape)}")
    datasets = [module.dataset.without_augmentation(), module.holdout]
    if sources is not None:
        datasets = [dataset.only(sources) for dataset in datasets]
    train, held_out = (_spread(dataset, most, extractor) for dataset in datasets)
    return train, held_out


def choose_prompts(prompts: Sequence[str], sources: Sequence[tuple[Images, str]], most: int) -> Prompts:
    """Return `prompts`; if there are none, captions of the first of `sources` that has images, with their conditions.

    At most `most` captions are taken, spread evenly, and each caption once. The result is empty if there are no images.
    """
    if prompts:
        return Prompts({"caption": list(prompts)}, "given")
    for images, origin in sources:
        if len(images):
            first = {text: row for row, text in reversed(list(enumerate(images.batch["caption"])))}
            rows, count = sorted(first.values()), min(most, len(first))
            batch = {name: values for name, values in images.batch.items() if name not in _SIZES}
            return Prompts(select_rows(batch, [rows[index * len(rows) // count] for index in range(count)]), origin)
    return Prompts({"caption": []}, "none")


def base_data(cfg: Any, most: int) -> tuple[Images, Images] | None:
    """Return the images of the run `pretrained`, or None if that is not a run folder or its data cannot be read."""
    if not cfg.pretrained or not (Path(cfg.pretrained) / "config.yaml").is_file():
        return None
    try:
        return training_and_held_out(config.load_run_config(Path(cfg.pretrained)), most)
    except (ValueError, OSError):
        return None


def _of_stream(batch: dict[str, Any] | None, extractor: Extractor | None) -> Images:
    """Return the images of a stream, which cannot be read again: their pixels stay in memory as uint8."""
    conditions = {"caption": [], "key": []} if batch is None else {k: v for k, v in batch.items() if k != "x"}
    pixels = torch.empty(0) if batch is None else ((batch["x"] + 1) * 127.5).round().to(torch.uint8)

    def picture(index: int) -> Tensor:
        return pixels[index].float() / 127.5 - 1

    parts = [torch.stack([picture(int(index)) for index in chunk]) for chunk in torch.arange(len(pixels)).split(_CHUNK)]
    seen = together(*(see(part, extractor) for part in parts)) if extractor and len(pixels) else None
    return Images(conditions, len(pixels), seen, picture)


def _spread(dataset: Any, most: int, extractor: Extractor | None) -> Images:
    count = min(most, len(dataset))
    indices = [index * len(dataset) // count for index in range(count)]
    conditions: list[dict[str, Any]] = []
    seen: list[Seen] = []
    for start in range(0, count, _CHUNK):
        samples = dataset.read([Draw(0, index) for index in indices[start : start + _CHUNK]])
        conditions += [{name: value for name, value in sample.items() if name != "x"} for sample in samples]
        if extractor:
            seen.append(see(collate(samples)["x"], extractor))

    def picture(index: int) -> Tensor:
        x: Tensor = collate(dataset.read([Draw(0, indices[index])]))["x"][0]
        return x

    batch = default_collate(conditions) if conditions else {"caption": [], "key": []}
    return Images(batch, len(dataset), together(*seen) if seen else None, picture)
