"""Latents that `diffusion-train encode` made, in place of images."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from safetensors.torch import load
from torch import Tensor

from diffusion_train.data.image.decode import IMAGE_EXTENSIONS
from diffusion_train.data.image.preprocess import View
from diffusion_train.data.order.order import Draw
from diffusion_train.data.precomputed.entries import Entries, address
from diffusion_train.data.shard.catalog import Catalog, Located, Numbers
from diffusion_train.data.storage.base import StorageError

# Raised when the same image, seen in the same way, would give other pixels by more than a rounding.
_PIXELS = 1
PLAIN, MIRRORED = "latents.plain", "latents.mirrored"
# What an entry holds is sent as integers: a Trainer of half precision would round floating-point numbers.
_AS_INTEGERS = {torch.float32: torch.int32, torch.bfloat16: torch.int16, torch.float16: torch.int16}


class NoLatents(StorageError):
    """Latents that should be there are not, or are damaged."""


class PrecomputedLatents:
    """The moments that the encoder of that fingerprint returns for images as a view shows them, to the bit."""

    def __init__(self, entries: Entries, encoder: str) -> None:
        self.entries, self.encoder = entries, encoder

    @property
    def collections(self) -> list[Catalog]:
        """All that is read of, where there is any."""
        return [self.entries.catalog] if self.entries.catalog else []

    def settings(self, view: View) -> dict[str, Any]:
        """What decides the latents of an image besides the image and its shape: plain data, by name."""
        return {
            "pixels": _PIXELS,
            "autoencoder": self.encoder,
            "data.crop": view.transform.crop,
            "data.background": list(view.transform.background),
            "data.animated": view.animated,
        }

    def addresses(
        self, catalog: Catalog, numbers: Numbers, view: View, draws: Sequence[Draw], mirrored: bool
    ) -> list[str]:
        """Of samples `numbers` in the shapes of `draws`. It is not asked where in its shard a sample lies, nor of its captions."""
        images = catalog.identities(numbers, IMAGE_EXTENSIONS)
        focal = catalog.identities(numbers, ("json",)) if view.transform.crop == "focal" else [""] * len(images)
        how = sorted(self.settings(view).items())
        return [
            address("latents", how, tuple(view.shape(draw)), mirrored, image, point)
            for draw, image, point in zip(draws, images, focal, strict=True)
        ]

    def in_place(
        self, located: Sequence[Located], catalog: Catalog, numbers: Numbers, view: View, draws: Sequence[Draw]
    ) -> list[Located]:
        """`located` with latents in place of the image; the image stays where there are none, for it may be a bad one.

        Whether a sample that is drawn to be mirrored may be, its texts say; both ways round are read of it.
        """
        turned = [index for index, draw in enumerate(draws) if view.flipped(draw)]
        some, drawn = [numbers[index] for index in turned], [draws[index] for index in turned]
        plain = self.entries.find(self.addresses(catalog, numbers, view, draws, mirrored=False))
        mirrored = self.entries.find(self.addresses(catalog, some, view, drawn, mirrored=True))
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
    def tensors(members: Mapping[str, bytes], view: View, draw: Draw, texts: Iterable[str]) -> dict[str, Tensor]:
        """As those of a view, with the "moments" (C, H, W) in place of "x"."""
        name = MIRRORED if MIRRORED in members and view.flipped(draw, texts) else PLAIN
        tensors = load(members[name])
        moments = tensors["moments"]
        return {
            **tensors,
            "moments": moments.view(_AS_INTEGERS[moments.dtype]),
            "target_size": torch.tensor(tuple(view.shape(draw))),
        }


def _without_images(members: Located) -> Located:
    return {name: index for name, index in members.items() if name not in IMAGE_EXTENSIONS}
