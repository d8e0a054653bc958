"""The settings of `data`, as a user gives them, and the parts that they make. Reads no file until it is asked for data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from diffusion_train.data.base import TrainingData
from diffusion_train.data.batch_size import wrong_sizes
from diffusion_train.data.caption.captions import Captions
from diffusion_train.data.caption.flip import FlipGuard
from diffusion_train.data.datamodule import DataModule
from diffusion_train.data.dataset import ShardDataset
from diffusion_train.data.image.decode import WHITE, Animated
from diffusion_train.data.image.preprocess import View
from diffusion_train.data.image.transform import Aligned, Crop, ImageTransform
from diffusion_train.data.order.order import Order
from diffusion_train.data.order.order_spec import Arrangement
from diffusion_train.data.order.resolution import AspectRatios, Resolution
from diffusion_train.data.points import PointsDataset
from diffusion_train.data.selection import Faults, Selection
from diffusion_train.data.shard.catalog_builder import Shards
from diffusion_train.data.shard.patterns import Patterns
from diffusion_train.data.storage.by_scheme import StorageByScheme
from diffusion_train.data.storage.settings import StorageSettings
from diffusion_train.data.streaming import StreamModule


class DataSettings(Protocol):
    """What every kind of data has: sizes of batches, and the data module that reads them."""

    @property
    def batch_size(self) -> int: ...

    def check(self) -> None:
        """Raises ValueError with all mistakes that no data are needed to find."""

    def datamodule(self) -> TrainingData: ...


@dataclass(frozen=True, kw_only=True)
class StreamData:
    """Settings of `data=stream`."""

    shards: Patterns
    captions: Captions
    shuffle: int = 1000
    seed: int = 0
    image_size: int = 32
    crop: Crop = "center"
    flip: bool = False
    flip_guard: Sequence[str] = ()
    animated: Animated = "first"
    background: Sequence[int] = WHITE
    batch_size: int = 64
    micro_batch_size: int | None = None
    num_workers: int = 2

    def check(self) -> None:
        sizes = wrong_sizes(self.batch_size, self.micro_batch_size, self.num_workers)
        _raise_all(sizes, self.view, self.image_sizes)

    def transform(self) -> ImageTransform:
        return ImageTransform(self.image_size, self.flip, self.seed, self.background, crop=self.crop)

    def view(self) -> View:
        return View(self.transform(), FlipGuard(self.flip_guard), self.animated)

    def image_sizes(self) -> Resolution:
        return Resolution(self.image_size)

    def datamodule(self) -> StreamModule:
        sizes = (self.batch_size, self.micro_batch_size, self.num_workers)
        return StreamModule(self.shards, self.view(), self.captions, *sizes, self.shuffle)


@dataclass(frozen=True, kw_only=True)
class ShardData:
    """Settings of `data=shards` and of all that it is made of; conf/data/shards.yaml says what each is for."""

    shards: Shards
    captions: Captions
    folder: str | None = None  # what `shards` are prepared from, for data=folder
    repeats: Mapping[str, float] | None = None
    weights: Mapping[str, float] | None = None
    encoded: Patterns | None = None
    storage: StorageSettings = field(default_factory=StorageSettings)
    seed: int = 0

    faults: Faults = "strict"
    holdout: float = 0.0
    min_side: int = 1
    max_aspect: float | None = None
    allowed_licenses: Sequence[str] | None = None

    image_size: int = 32
    resolution: int | Sequence[tuple[int, int]] | None = None
    buckets: AspectRatios = field(default_factory=AspectRatios)
    crop: Crop = "center"
    flip: bool = False
    flip_guard: Sequence[str] = ()
    animated: Animated = "first"
    background: Sequence[int] = WHITE
    images: Mapping[str, str] | None = None
    nearest: Sequence[str] = ()
    aligned: Mapping[str, Aligned] | None = None

    batch_size: int = 64
    micro_batch_size: int | None = None
    num_workers: int = 2
    num_repeated_batches: int | None = None
    block_size: int = 64
    window: int = 256
    num_lanes: int = 1

    def check(self) -> None:
        sizes = wrong_sizes(self.batch_size, self.micro_batch_size, self.num_workers, self.num_repeated_batches)
        _raise_all(sizes, self.selection, self.view, self.order_spec, self.image_sizes)

    def transform(self) -> ImageTransform:
        return ImageTransform(
            self.image_size, self.flip, self.seed, self.background, self.aligned, self.crop, self.nearest
        )

    def view(self) -> View:
        return View(self.transform(), FlipGuard(self.flip_guard), self.animated)

    def selection(self) -> Selection:
        return Selection(self.holdout, self.min_side, self.max_aspect, self.allowed_licenses, self.faults)

    def order_spec(self) -> Arrangement:
        order = partial(Order, seed=self.seed, block_size=self.block_size, window=self.window, num_lanes=self.num_lanes)
        return Arrangement(order, self.repeats, self.weights, self.buckets, self.image_size)

    def image_sizes(self) -> Resolution:
        return Resolution(self.image_size if self.resolution is None else self.resolution, self.buckets)

    def reader(self) -> StorageByScheme:
        return StorageByScheme(self.storage)

    def dataset(self) -> ShardDataset:
        return ShardDataset(self.shards, self.view(), self.captions, self.selection(), self.reader(), self.images)

    def datamodule(self) -> DataModule:
        sizes = (self.batch_size, self.micro_batch_size, self.num_workers, self.num_repeated_batches)
        return DataModule(self.dataset(), self.order_spec(), *sizes, self.image_sizes())


@dataclass(frozen=True, kw_only=True)
class PointsData:
    """Settings of `data=points`."""

    kind: str = "two_moons"
    num_samples: int = 20000
    holdout: int = 0
    seed: int = 0
    batch_size: int = 512
    micro_batch_size: int | None = None
    num_workers: int = 0
    num_repeated_batches: int | None = None
    num_lanes: int = 1

    def check(self) -> None:
        _raise_all(wrong_sizes(self.batch_size, self.micro_batch_size, self.num_workers, self.num_repeated_batches))

    def datamodule(self) -> DataModule:
        dataset = PointsDataset(self.kind, self.num_samples, self.seed, self.holdout)
        order_spec = Arrangement(partial(Order, seed=self.seed, num_lanes=self.num_lanes))
        sizes = (self.batch_size, self.micro_batch_size, self.num_workers, self.num_repeated_batches)
        return DataModule(dataset, order_spec, *sizes)


def _raise_all(mistakes: Iterable[str], *parts: Callable[[], object]) -> None:
    """Raises ValueError with `mistakes` and what the parts say against their settings."""

    def refusals() -> Iterator[str]:
        for make in parts:
            try:
                make()
            except ValueError as error:
                yield str(error)

    if found := list(dict.fromkeys([*refusals(), *mistakes])):
        raise ValueError("\n".join(found))
