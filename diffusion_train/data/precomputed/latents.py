"""Latents of `diffusion-train encode`, in place of images."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from safetensors.torch import load
from torch import Tensor

from diffusion_train.data.image.decode import IMAGE_EXTENSIONS
from diffusion_train.data.image.preprocess import Preprocess
from diffusion_train.data.order.order import Draw
from diffusion_train.data.precomputed.entries import Entries, address
from diffusion_train.data.shard.catalog import Catalog, Located, Numbers
from diffusion_train.data.storage.base import StorageError

# Increase it when the same view of an image would give other pixels, by more than a rounding.
_PIXELS = 1
PLAIN, MIRRORED = "latents.plain", "latents.mirrored"
# Moments are sent as integers, because a Trainer of half precision would round floating-point numbers.
_AS_INTEGERS = {torch.float32: torch.int32, torch.bfloat16: torch.int16, torch.float16: torch.int16}


class NoLatents(StorageError):
    """Latents that are missing or damaged."""


class PrecomputedLatents:
    """The moments of an encoder with this fingerprint for views of images; they are bit-exact."""

    def __init__(self, entries: Entries, encoder: str) -> None:
        self.entries, self.encoder = entries, encoder

    @property
    def collections(self) -> list[Catalog]:
        """The catalogs that latents are read from: one, or none if there are no entries."""
        return [self.entries.catalog] if self.entries.catalog else []

    def settings(self, preprocess: Preprocess) -> dict[str, Any]:
        """Return, as plain data by name, what determines the latents of an image besides the image and its shape."""
        ground = preprocess.transform.background
        return {
            "pixels": _PIXELS,
            "autoencoder": self.encoder,
            "data.crop": preprocess.transform.crop,
            "data.background": ground if ground == "contrast" else list(ground),
            "data.animated": preprocess.animated,
        }

    def addresses(
        self, catalog: Catalog, numbers: Numbers, preprocess: Preprocess, draws: Sequence[Draw], mirrored: bool
    ) -> list[str]:
        """Return the addresses of samples `numbers` in the shapes of `draws`. Shards and captions do not matter."""
        images = catalog.identities(numbers, IMAGE_EXTENSIONS)
        focal = catalog.identities(numbers, ("json",)) if preprocess.transform.crop == "focal" else [""] * len(images)
        how = sorted(self.settings(preprocess).items())
        return [
            address("latents", how, tuple(preprocess.shape(draw)), mirrored, image, point)
            for draw, image, point in zip(draws, images, focal, strict=True)
        ]

    def substitute(
        self,
        located: Sequence[Located],
        catalog: Catalog,
        numbers: Numbers,
        preprocess: Preprocess,
        draws: Sequence[Draw],
    ) -> list[Located]:
        """Replace the image in `located` by its latents; an image without latents stays, because it may be a bad one.

        Whether an image may be mirrored depends on its texts, so if it is drawn to be, both orientations are read.
        """
        turned = [index for index, draw in enumerate(draws) if preprocess.flipped(draw)]
        some, drawn = [numbers[index] for index in turned], [draws[index] for index in turned]
        plain = self.entries.find(self.addresses(catalog, numbers, preprocess, draws, mirrored=False))
        mirrored = self.entries.find(self.addresses(catalog, some, preprocess, drawn, mirrored=True))
        found = [{PLAIN: number} for number in plain]
        for index, number in zip(turned, mirrored, strict=True):
            found[index][MIRRORED] = number
        whole = [min(entry.values()) >= 0 for entry in found]
        ranges = iter(
            self.entries.ranges(
                [number for entry, there in zip(found, whole, strict=True) if there for number in entry.values()]
            )
        )
        return [
            _without_images(members) | {name: next(ranges) for name in entry} if there else members
            for members, entry, there in zip(located, found, whole, strict=True)
        ]

    @staticmethod
    def tensors(
        members: Mapping[str, bytes], preprocess: Preprocess, draw: Draw, texts: Iterable[str]
    ) -> dict[str, Tensor]:
        """Return the tensors of a view with "moments" (C, H, W), as integers, in place of "x"."""
        name = MIRRORED if MIRRORED in members and preprocess.flipped(draw, texts) else PLAIN
        tensors = load(members[name])
        moments = tensors["moments"]
        return {
            **tensors,
            "moments": moments.view(_AS_INTEGERS[moments.dtype]),
            "target_size": torch.tensor(tuple(preprocess.shape(draw))),
        }


def _without_images(members: Located) -> Located:
    return {name: index for name, index in members.items() if name not in IMAGE_EXTENSIONS}
