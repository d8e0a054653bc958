"""Decode the images of a sample and transform them to tensors."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterable, Mapping

from PIL import Image
from torch import Tensor

from diffusion_train.data.caption.flip import FlipGuard
from diffusion_train.data.image.decode import Animated, decode_image
from diffusion_train.data.image.header import ImageError
from diffusion_train.data.image.transform import ImageTransform
from diffusion_train.data.order.order import Draw


class Preprocess:
    """Decodes and transforms images. An image is not mirrored if `may_flip(text)` is False for any text of its sample.

    All texts of a sample count, so that mirroring does not depend on the caption that an epoch draws. With
    `data.crop=focal` the JSON of a sample contains "focal": [x, y], as fractions of width and height.
    """

    def __init__(
        self,
        transform: ImageTransform,
        may_flip: Callable[[str], bool] | None = None,
        animated: Animated = "first",
    ) -> None:
        self.transform, self.may_flip, self.animated = transform, may_flip or FlipGuard(), animated
        self.orientation: bool | None = None  # True or False: mirror every image or none, whatever is drawn and allowed

    @property
    def extensions(self) -> tuple[str, ...]:
        """The members that are read in addition to images."""
        return ("json",) if self.transform.crop == "focal" else ()

    def without_augmentation(self) -> Preprocess:
        return Preprocess(self.transform.without_augmentation(), self.may_flip, self.animated)

    def oriented(self, mirrored: bool) -> Preprocess:
        """Return the same steps with every image mirrored, or none."""
        other = copy.copy(self)
        other.orientation = mirrored
        return other

    def __call__(
        self, image: bytes, draw: Draw, texts: Iterable[str], others: Mapping[str, bytes], metadata: bytes | None
    ) -> dict[str, Tensor]:
        """Return the tensors of an encoded image; `texts` is only iterated over if needed. Raises ImageError."""
        decoded = {name: self.decode(data, draw) for name, data in others.items()}
        return self.to_tensors(self.decode(image, draw), draw, texts, decoded, metadata)

    def decode(self, image: bytes, draw: Draw) -> Image.Image:
        """Decode an image, perhaps reduced, for the shape of `draw`. Raises ImageError."""
        return decode_image(image, self.transform.background, at_least=self.shape(draw), animated=self.animated)

    def to_tensors(
        self,
        image: Image.Image,
        draw: Draw,
        texts: Iterable[str] = (),
        others: Mapping[str, Image.Image] | None = None,
        metadata: bytes | None = None,
    ) -> dict[str, Tensor]:
        """Return the tensors of decoded images. Raises ImageError, and AlignedError from `data.aligned`."""
        focal = _focal(metadata) if self.transform.crop == "focal" else None
        return self.transform(
            image, draw.epoch, draw.sample, self.shape(draw), self.flipped(draw, texts), focal, others
        )

    def flipped(self, draw: Draw, texts: Iterable[str] = ()) -> bool:
        """Whether the image is mirrored; without `texts`, whether it would be if all texts allow it."""
        if self.orientation is not None:
            return self.orientation
        return self.transform.flips(draw.epoch, draw.sample) and all(map(self.may_flip, texts))

    def shape(self, draw: Draw) -> tuple[int, ...]:
        """Return (height, width) of a draw."""
        return draw.shape or self.transform.shape[1:]


def _focal(metadata: bytes | None) -> list[float] | None:
    try:
        facts = json.loads(metadata or b"{}")
    except (ValueError, RecursionError) as error:
        raise ImageError("the json with the focal point cannot be read") from error
    point = facts.get("focal") if isinstance(facts, dict) else None
    if point is None:
        return None
    if not isinstance(point, list) or not all(isinstance(part, int | float) for part in point):
        raise ImageError(
            f"focal point {str(point)[:50]}: must be two numbers in [0, 1], from the left and from the top"
        )
    return point
