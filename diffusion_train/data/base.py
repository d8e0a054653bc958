"""The contracts of data: what training needs of a data set and of a data module, and what indexed shards have besides."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from diffusion_train.data.order.order import Draw, Shape, Window
from diffusion_train.data.shard.problem import Problem

Sample = dict[str, Any]  # "x" or "moments" (tensors), "caption", "key", "index", "bad", and what else the data hold
Batch = dict[str, Any]  # the same names: tensors (B, ...), and lists of B strings


class Reading(NamedTuple):
    """A batch of which `num_bytes` are under way, and held until `finish` gives its samples, or raises."""

    num_bytes: int
    finish: Callable[[], list[Sample]]


class Lookahead(NamedTuple):
    """How far a process looks: `num_bytes` of its next batches held in memory, the next `num_samples` of all cached."""

    num_bytes: int = 0
    num_samples: int = 0


class Dataset(Protocol):
    """Samples 0..n-1, each of `shape`; the fingerprint stands for all they hold and for their order."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def fingerprint(self) -> str: ...

    @property
    def sources(self) -> Mapping[str, int]:
        """How many samples each source has, in the order of their numbers."""

    @property
    def problems(self) -> Sequence[Problem]:
        """What was left out as faulty."""

    @property
    def facts(self) -> Mapping[str, Any]:
        """Plain data for the record of a run."""

    @property
    def caption_settings(self) -> str:
        """What decides the captions besides seed and data."""

    def __len__(self) -> int: ...

    def read(self, draws: Sequence[Draw]) -> list[Sample]:
        """{"x": tensor, "caption": str, "key": str, "index": int, ...} for each draw; its epoch keys augmentation."""

    def sample_ids(self) -> NDArray[np.uint64]:
        """A number for each sample (n,) by which it is known again in other data: a hash of what it is and holds."""

    def holdout(self) -> Dataset:
        """The samples kept out of this data set, without augmentation."""


@runtime_checkable
class ShardedDataset(Protocol):
    """What a `Dataset` of images in indexed shards has besides: it can read ahead, and knows sizes and captions."""

    @property
    def num_retries(self) -> int:
        """Requests for samples that this process had to repeat."""

    def begin(self, draws: Sequence[Draw]) -> Reading:
        """As `read`, which waits for what this returns at once."""

    def prefetch(self, draws: Sequence[Draw]) -> bool:
        """Begins to fetch what they need into a cache; False where too much waits to be fetched already."""

    def lookahead(self, windows: Sequence[Window], fraction: float) -> Lookahead:
        """How far it is worth to look, where an order has these windows and this machine reads a fraction of each."""

    def sizes(self) -> NDArray[np.int64]:
        """Width and height of each sample (n, 2) in pixels."""

    def captions(self) -> Iterator[str]:
        """Every caption that any sample can have; of a sample with too many to list, none. Ends where hardly any list theirs."""


def image_sizes(dataset: Dataset) -> NDArray[np.int64] | None:
    """Width and height of each sample (n, 2) in pixels, where samples are images of known sizes."""
    return dataset.sizes() if isinstance(dataset, ShardedDataset) else None


class TrainingData(Protocol):
    """What training, callbacks and commands need of a data module, however it reads."""

    batch_size: int  # samples of one optimizer step over all devices
    micro_batch_size: int | None

    @property
    def num_samples(self) -> int:
        """0 where nobody knows."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one sample."""

    @property
    def description(self) -> str:
        """What there is to train on, in words."""

    @property
    def resume_policy(self) -> str:
        """Which samples come next where a run resumes with other data, in words."""

    @property
    def problems(self) -> Sequence[Problem]:
        """What was left out as faulty."""

    @property
    def facts(self) -> Mapping[str, Any]:
        """For the record of a run: exactly which data, under which rights, goes into it."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """What decides, with the position, which samples a batch holds."""

    def check(self, world_size: int = 1) -> None:
        """Raises ValueError with all that cannot be done with these sizes on so many processes."""

    def record(self, step: int) -> dict[str, Any]:
        """Plain data from which `resume` continues after the steps before `step`."""

    def resume(self, step: int, record: Mapping[str, Any], folder: Path) -> None:
        """Continues from the record of a checkpoint in `folder`."""

    def save_manifest(self, folder: Path) -> None:
        """Writes beside the checkpoints what `resume` needs of them."""

    def prune_manifests(self, folder: Path, records: Iterable[Mapping[str, Any]]) -> None:
        """Removes from there what `resume` needs of none of `records`, those of all checkpoints that are left."""

    def examples(self, num_samples: int) -> Batch:
        """At most so many training samples, always the same."""

    def held_out(self, num_samples: int) -> Batch | None:
        """At most so many held-out samples, always the same; None where none are held out."""

    def captions(self) -> Iterator[str]:
        """Every caption once or more, of training and held-out samples, where they can be listed."""


class IndexedData(TrainingData, Protocol):
    """What a data module has besides where its samples are numbered."""

    @property
    def dataset(self) -> Dataset: ...

    def shapes(self) -> list[tuple[Shape, NDArray[np.int64]]]:
        """Every shape that training draws images in, and which samples (m,) it draws in it."""

    def reading_from(self, dataset: Dataset) -> IndexedData:
        """The same batches, read for training from `dataset`: it has the same samples, latents in place of images."""
