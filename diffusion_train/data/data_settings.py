"""The settings of `data`, and the parts that are built from them. No file is read before a data set is built."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from inspect import signature
from typing import Any

from diffusion_train.data.base import TrainingData
from diffusion_train.data.batch_size import wrong_sizes
from diffusion_train.data.caption.captions import Captions
from diffusion_train.data.caption.flip import FlipGuard
from diffusion_train.data.datamodule import DataModule
from diffusion_train.data.dataset import ShardDataset
from diffusion_train.data.image.decode import Animated
from diffusion_train.data.image.ground import WHITE, Ground
from diffusion_train.data.image.preprocess import Preprocess
from diffusion_train.data.image.transform import Aligned, Crop, ImageTransform
from diffusion_train.data.order.order import Order
from diffusion_train.data.order.order_spec import OrderSpec
from diffusion_train.data.order.resolution import AspectRatios, Resolution
from diffusion_train.data.points import PointsDataset
from diffusion_train.data.selection import Faults, Selection
from diffusion_train.data.shard.catalog_builder import Shards
from diffusion_train.data.shard.patterns import Patterns
from diffusion_train.data.storage.by_scheme import StorageByScheme
from diffusion_train.data.storage.settings import StorageSettings
from diffusion_train.data.streaming import StreamModule


@dataclass(frozen=True, kw_only=True)
class DataSettings(ABC):
    """Settings of every kind of data. `batch_size` counts the samples of one optimizer step over all devices."""

    seed: int = 0
    batch_size: int
    micro_batch_size: int | None = None
    num_workers: int = 0

    @abstractmethod
    def datamodule(self) -> TrainingData:
        """Build the data module, which reads the data. Raises ValueError if they cannot be used."""

    @property
    def sizes(self) -> dict[str, Any]:
        """The arguments of `wrong_sizes` that this kind of data has."""
        return {name: getattr(self, name) for name in signature(wrong_sizes).parameters if hasattr(self, name)}

    def check(self) -> None:
        """Raises ValueError with every mistake in the settings that can be found without data."""
        mistakes = []
        for make in self._checked():
            try:
                make()
            except ValueError as error:
                mistakes.append(str(error))
        if mistakes := list(dict.fromkeys([*mistakes, *wrong_sizes(**self.sizes)])):
            raise ValueError("\n".join(mistakes))

    def _checked(self) -> Sequence[Callable[[], object]]:
        """Return functions that build parts, which check their settings."""
        return ()


@dataclass(frozen=True, kw_only=True)
class ImageData(DataSettings):
    """Images with captions, in shards."""

    captions: Captions
    image_size: int
    crop: Crop = "center"
    flip: bool = False
    flip_guard: Sequence[str] = ()
    animated: Animated = "first"
    background: Ground = WHITE

    def _checked(self) -> Sequence[Callable[[], object]]:
        return self.preprocess, self.image_sizes

    def transform(self) -> ImageTransform:
        return ImageTransform(self.image_size, self.flip, self.seed, self.background, crop=self.crop)

    def preprocess(self) -> Preprocess:
        return Preprocess(self.transform(), FlipGuard(self.flip_guard), self.animated)

    def image_sizes(self) -> Resolution:
        """Return the image size by optimizer step."""
        return Resolution(self.image_size)


@dataclass(frozen=True, kw_only=True)
class StreamData(ImageData):
    """Settings of `data=stream`."""

    shards: Patterns
    shuffle: int = 1000

    def datamodule(self) -> StreamModule:
        return StreamModule(self.shards, self.preprocess(), self.captions, shuffle=self.shuffle, **self.sizes)


@dataclass(frozen=True, kw_only=True)
class ShardData(ImageData):
    """Settings of `data=shards`; conf/data/shards.yaml describes each of them."""

    shards: Shards
    folder: str | None = None  # what `shards` are prepared from, for data=folder
    repeats: Mapping[str, float] | None = None
    weights: Mapping[str, float] | None = None
    encoded: Patterns | None = None
    storage: StorageSettings = field(default_factory=StorageSettings)
    faults: Faults = "strict"
    holdout: float = 0.0
    min_side: int = 1
    max_aspect: float | None = None
    allowed_licenses: Sequence[str] | None = None
    resolution: int | Sequence[tuple[int, int]] | None = None
    buckets: AspectRatios = field(default_factory=AspectRatios)
    images: Mapping[str, str] | None = None
    nearest: Sequence[str] = ()
    aligned: Mapping[str, Aligned] | None = None
    num_repeated_batches: int | None = None
    block_size: int = 64
    window: int = 256
    num_lanes: int = 1

    def _checked(self) -> Sequence[Callable[[], object]]:
        return self.selection, self.order_spec, *super()._checked()

    def transform(self) -> ImageTransform:
        return ImageTransform(
            self.image_size, self.flip, self.seed, self.background, self.aligned, self.crop, self.nearest
        )

    def selection(self) -> Selection:
        return Selection(self.holdout, self.min_side, self.max_aspect, self.allowed_licenses, self.faults)

    def order_spec(self) -> OrderSpec:
        order = partial(Order, seed=self.seed, block_size=self.block_size, window=self.window, num_lanes=self.num_lanes)
        return OrderSpec(order, self.repeats, self.weights, self.buckets, self.image_size)

    def image_sizes(self) -> Resolution:
        return Resolution(self.image_size if self.resolution is None else self.resolution, self.buckets)

    def dataset(self) -> ShardDataset:
        storage = StorageByScheme(self.storage)
        return ShardDataset(self.shards, self.preprocess(), self.captions, self.selection(), storage, self.images)

    def datamodule(self) -> DataModule:
        return DataModule(self.dataset(), self.order_spec(), resolution=self.image_sizes(), **self.sizes)


@dataclass(frozen=True, kw_only=True)
class PointsData(DataSettings):
    """Settings of `data=points`."""

    kind: str
    num_samples: int
    holdout: int = 0
    num_repeated_batches: int | None = None
    num_lanes: int = 1

    def datamodule(self) -> DataModule:
        dataset = PointsDataset(self.kind, self.num_samples, self.seed, self.holdout)
        order_spec = OrderSpec(partial(Order, seed=self.seed, num_lanes=self.num_lanes))
        return DataModule(dataset, order_spec, **self.sizes)
