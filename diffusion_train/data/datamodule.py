"""Global batches for Lightning. Their samples only depend on seed, data set, batch size and position."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
from numpy.typing import NDArray
from torch.utils.data import Dataset as TorchDataset

from diffusion_train.data.base import Batch, Dataset, Sample, ShardedDataset, image_sizes
from diffusion_train.data.batch_size import indivisible, wrong_sizes
from diffusion_train.data.image.collate import collate, to_levels
from diffusion_train.data.loader import BatchDataset, loader, process
from diffusion_train.data.order.buckets import Buckets, Occupancy
from diffusion_train.data.order.order import Draw, Draws, Shape
from diffusion_train.data.order.order_spec import OrderSpec
from diffusion_train.data.order.order_state import OrderState
from diffusion_train.data.order.resolution import Resolution
from diffusion_train.data.rank_batches import RankBatches
from diffusion_train.data.read_ahead import ReadAhead
from diffusion_train.data.shard.problem import Problem
from diffusion_train.data.synchronized_loader import together

log = logging.getLogger(__name__)


class DataModule(pl.LightningDataModule):
    """Data module of an indexed data set. `batch_size` counts the samples of one optimizer step over all devices.

    `order_spec` makes the order of the data set. With `resolution` images have its size at each step, in the shape of
    their bucket. An item of the training loader is this rank's rows of one global batch; it is endless and starts at
    the position set by `seek`. Give the Trainer `use_distributed_sampler=False`. `num_repeated_batches` repeats only
    that many batches, which a network must be able to memorise.
    """

    resume_policy = "new samples and those that the current pass has not drawn yet come first, then complete passes"

    def __init__(
        self,
        dataset: Dataset,
        order_spec: OrderSpec,
        batch_size: int,
        micro_batch_size: int | None = None,
        num_workers: int = 0,
        num_repeated_batches: int | None = None,
        resolution: Resolution | None = None,
    ) -> None:
        super().__init__()
        self.dataset = dataset
        self.holdout = dataset.holdout()
        self.order_state = OrderState(dataset, order_spec)
        self.resolution = resolution
        self.batch_size = batch_size
        self.micro_batch_size = micro_batch_size
        self.num_workers = num_workers
        self.num_repeated_batches = num_repeated_batches
        self.train_dataset = dataset
        self.start_step, self.start_position = 0, 0
        self.check()
        for bucket in self.occupancy():
            if bucket.copies > 1:
                log.warning("bucket %s", bucket)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.dataset.shape

    @property
    def num_samples(self) -> int:
        return len(self.dataset)

    @property
    def description(self) -> str:
        return f"{self.num_samples:,} samples"

    @property
    def problems(self) -> Sequence[Problem]:
        """The faults of the data that were left out."""
        return self.dataset.problems

    @property
    def facts(self) -> dict[str, Any]:
        """The data, their buckets and licences, for the record of a run."""
        counts = {"fingerprint": self.dataset.fingerprint, "samples": self.num_samples, "held_out": len(self.holdout)}
        buckets = {
            f"{height}x{width}": bucket.num_samples for bucket in self.occupancy() for height, width in [bucket.shape]
        }
        return {**counts, **({"buckets": buckets} if buckets else {}), **self.dataset.facts}

    def occupancy(self) -> list[Occupancy]:
        """Return how full the buckets are; empty if all images have one shape."""
        return self.order.occupancy(self.batch_size) if isinstance(self.order, Buckets) else []

    @property
    def order(self) -> Draws | Buckets:
        return self.order_state.order

    @property
    def identity(self) -> dict[str, Any]:
        """The settings that determine, with the position, which samples a batch contains."""
        order = self.order_state.order_spec.description
        return {
            "seed": self.order.seed,
            "data": self.dataset.fingerprint,
            "data.order": "; ".join([order, *([self.resolution.settings] if self.resolution else [])]),
            "data.captions": self.dataset.caption_settings,
            "data.batch_size": self.batch_size,
        }

    def seek(self, step: int, position: int) -> None:
        """Make the batch of `step`, which starts after `position` samples of the order, the loader's next one."""
        self.start_step, self.start_position = step, position

    def record(self, step: int) -> dict[str, Any]:
        """Return plain data from which `resume` continues at `step`."""
        position = self.start_position + (step - self.start_step) * self.batch_size
        return {"cursor": position, "course": self.order_state.record(self.batch_size)}

    def resume(self, step: int, record: Mapping[str, Any], folder: Path) -> None:
        """Resume from a checkpoint in `folder`; `OrderState` describes how the order continues if it has changed."""
        self.seek(step, self.order_state.resume(record["course"], record["cursor"], self.batch_size, folder))

    def save_manifest(self, folder: Path) -> None:
        """Write the manifest of samples, which `resume` needs, into the folder of the checkpoints."""
        self.order_state.save_manifest(folder)

    def prune_manifests(self, folder: Path, records: Iterable[Mapping[str, Any]]) -> None:
        """Remove manifests that none of `records` needs; these are the records of all remaining checkpoints."""
        self.order_state.prune_manifests(folder, (record["course"] for record in records))

    def check(self, world_size: int = 1) -> None:
        """Raises ValueError with every size that does not work with `world_size` processes."""
        wrong = list(indivisible(self.batch_size, world_size, self.order.num_lanes))
        if self.batch_size > self.num_samples:
            wrong.append(
                f"data.batch_size={self.batch_size} must be at most {self.num_samples}, the number of training samples"
            )
        wrong += wrong_sizes(self.batch_size, self.micro_batch_size, self.num_workers, self.num_repeated_batches)
        if wrong:
            raise ValueError("\n".join(wrong))

    def train_dataloader(self) -> Iterable[Batch]:
        """Return the endless loader of this rank's rows, from the position set by `seek`."""
        rank, world_size, cuda = process(self.trainer)
        self.check(world_size)
        num_rows = self.batch_size // world_size
        rows = range(rank * num_rows, (rank + 1) * num_rows)
        batches = loader(self._read(rows), self.num_workers, self.order.seed, pin_memory=cuda)
        return together(batches)

    def _read(self, rows: range) -> TorchDataset[Sample]:
        draws = RankBatches(
            order=self.order,
            resolution=self.resolution,
            batch_size=self.batch_size,
            rows=rows,
            start_step=self.start_step,
            start_position=self.start_position,
            num_repeated_batches=self.num_repeated_batches,
        )
        if not isinstance(self.train_dataset, ShardedDataset):
            return BatchDataset(self.train_dataset, draws)
        num_nodes = self.trainer.num_nodes if isinstance(self.trainer, pl.Trainer) else 1
        fraction = 1 / min(num_nodes, self.order.num_lanes)
        lookahead = self.train_dataset.lookahead(self.order.windows(), fraction)
        return ReadAhead(self.train_dataset, draws, lookahead, self.batch_size)

    def reading_from(self, dataset: Dataset) -> DataModule:
        """Return data with the same batches, read from `dataset`: the same samples with latents in place of images."""
        other = copy.copy(self)
        other.train_dataset = dataset
        return other

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Convert images to float32 on the device; as bytes they are a quarter of the size to transfer."""
        return to_levels(batch)

    def examples(self, num_samples: int) -> Batch:
        """Return at most `num_samples` training samples spread evenly over the data, always the same ones."""
        count = min(num_samples, self.num_samples)
        return collate(self.dataset.read([Draw(0, number * self.num_samples // count) for number in range(count)]))

    def held_out(self, num_samples: int) -> Batch | None:
        """Return the first held-out samples in their fixed order, at most `num_samples`; None if none are held out."""
        count = min(num_samples, len(self.holdout))
        return collate(self.holdout.read([Draw(0, index) for index in range(count)])) if count else None

    def shapes(self) -> list[tuple[Shape, NDArray[np.int64]]]:
        """Return every image shape of training, with the samples (m,) that have it."""
        buckets: list[tuple[Shape | None, NDArray[np.int64]]] = [(None, np.arange(self.num_samples))]
        if isinstance(self.order, Buckets):
            buckets = list(self.order_state.order_spec.sorted(image_sizes(self.dataset)))
        if self.resolution is None:
            height, width = self.shape[1:]
            return [(shape or (height, width), samples) for shape, samples in buckets]
        sizes = dict.fromkeys(self.resolution.sizes)
        return [
            (self.resolution.ratios.rescaled(shape or (1, 1), size), samples)
            for size in sizes
            for shape, samples in buckets
        ]

    def captions(self) -> Iterator[str]:
        """Yield every caption of training and held-out samples at least once, if they can be listed."""
        for dataset in (self.dataset, self.holdout):
            if isinstance(dataset, ShardedDataset):
                yield from dataset.captions()
