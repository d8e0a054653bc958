"""The protocols of data: what training needs from a data set and a data module, and what indexed shards add."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from diffusion_train.data.order.order import Draw, Shape, Window
from diffusion_train.data.shard.problem import Problem

Sample = dict[
    str, Any
]  # "x" or "moments" (tensors), "caption", "key", "index", "bad", and further entries of the data set
Batch = dict[str, Any]  # the same names: tensors (B, ...), and lists of B strings


class Reading(NamedTuple):
    """A batch that is being read.

    `num_bytes` were requested; `finish` waits for them and returns the samples, or raises.
    """

    num_bytes: int
    finish: Callable[[], list[Sample]]


class Lookahead(NamedTuple):
    """How far to read ahead: `num_bytes` of batches in the memory of a process, `num_samples` of all in the cache."""

    num_bytes: int = 0
    num_samples: int = 0


class Dataset(Protocol):
    """Samples 0..n-1, each of `shape`. The fingerprint is a hash of their contents and their order."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def fingerprint(self) -> str: ...

    @property
    def sources(self) -> Mapping[str, int]:
        """Source -> number of samples, in the order of the sample numbers."""

    @property
    def problems(self) -> Sequence[Problem]:
        """The faults of the data that were left out."""

    @property
    def facts(self) -> Mapping[str, Any]:
        """Plain data for the record of a run."""

    @property
    def caption_settings(self) -> str:
        """The settings that determine the captions, besides seed and data."""

    def __len__(self) -> int: ...

    def read(self, draws: Sequence[Draw]) -> list[Sample]:
        """Return {"x": tensor, "caption": str, "key": str, "index": int, ...} for each draw, augmented by its epoch."""

    def sample_ids(self) -> NDArray[np.uint64]:
        """Return a hash of each sample (n,), its key and contents, which identifies it in other data."""

    def holdout(self) -> Dataset:
        """Return the samples held out of this data set, without augmentation."""


@runtime_checkable
class ShardedDataset(Protocol):
    """What a `Dataset` of images in indexed shards adds: it can read ahead, and knows image sizes and captions."""

    @property
    def num_retries(self) -> int:
        """The number of requests that this process had to repeat."""

    def begin(self, draws: Sequence[Draw]) -> Reading:
        """Start to read and return at once; `read` also waits for the result."""

    def prefetch(self, draws: Sequence[Draw]) -> bool:
        """Start to fetch the bytes of these draws into the cache; return False if too many blocks are queued."""

    def lookahead(self, windows: Sequence[Window], fraction: float) -> Lookahead:
        """Return how far to read ahead, for an order with these windows of which this machine reads a fraction."""

    def sizes(self) -> NDArray[np.int64]:
        """Return width and height of each sample (n, 2) in pixels."""

    def captions(self) -> Iterator[str]:
        """Yield every caption that samples can have, except of samples with too many; stop early if nearly all have."""


def image_sizes(dataset: Dataset) -> NDArray[np.int64] | None:
    """Return width and height of each sample (n, 2) in pixels, or None if samples have no known image sizes."""
    return dataset.sizes() if isinstance(dataset, ShardedDataset) else None


class TrainingData(Protocol):
    """What training, callbacks and commands need from a data module, indexed or streamed."""

    batch_size: int  # samples of one optimizer step over all devices
    micro_batch_size: int | None

    @property
    def num_samples(self) -> int:
        """The number of training samples, 0 if it is unknown."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one sample."""

    @property
    def description(self) -> str:
        """The data in words, such as their number of samples."""

    @property
    def resume_policy(self) -> str:
        """Which samples come first if a run resumes with other data, in words."""

    @property
    def problems(self) -> Sequence[Problem]:
        """The faults of the data that were left out."""

    @property
    def facts(self) -> Mapping[str, Any]:
        """The data and their licences, for the record of a run."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """The settings that determine, with the position, which samples a batch contains."""

    def check(self, world_size: int = 1) -> None:
        """Raises ValueError with every batch size or count that does not work with `world_size` processes."""

    def record(self, step: int) -> dict[str, Any]:
        """Return plain data from which `resume` continues at `step`."""

    def resume(self, step: int, record: Mapping[str, Any], folder: Path) -> None:
        """Continue at `step` from the record of a checkpoint in `folder`."""

    def save_manifest(self, folder: Path) -> None:
        """Write the manifest of samples, which `resume` needs, into the folder of the checkpoints."""

    def prune_manifests(self, folder: Path, records: Iterable[Mapping[str, Any]]) -> None:
        """Remove manifests that none of `records` needs; these are the records of all remaining checkpoints."""

    def examples(self, num_samples: int) -> Batch:
        """Return at most `num_samples` training samples, always the same ones."""

    def held_out(self, num_samples: int) -> Batch | None:
        """Return at most `num_samples` held-out samples, always the same ones; None if none are held out."""

    def captions(self) -> Iterator[str]:
        """Yield every caption of training and held-out samples at least once, if they can be listed."""


class IndexedData(TrainingData, Protocol):
    """What a data module adds if its samples are numbered."""

    @property
    def dataset(self) -> Dataset: ...

    def shapes(self) -> list[tuple[Shape, NDArray[np.int64]]]:
        """Return every image shape of training, with the samples (m,) that have it."""

    def reading_from(self, dataset: Dataset) -> IndexedData:
        """Return data with the same batches, read from `dataset`: the same samples with latents in place of images."""
