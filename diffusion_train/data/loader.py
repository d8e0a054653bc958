"""The endless loader of training. An item is one process's rows of one global batch."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Sampler, get_worker_info
from torch.utils.data import Dataset as TorchDataset

from diffusion_train.data.base import Batch, Dataset, Sample
from diffusion_train.data.order.order import Draw
from diffusion_train.data.rank_batches import Plan
from diffusion_train.utils.process.child_process import serve_parent
from diffusion_train.utils.rng import key_seed


def loader(batches: TorchDataset[Sample], num_workers: int, seed: int, pin_memory: bool) -> DataLoader[Batch]:
    """Return a loader of `batches`, whose `__getitems__` returns the samples of the batch with a number."""
    return DataLoader(
        batches,
        batch_sampler=_Numbers(),
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        worker_init_fn=serve_parent,  # otherwise Ctrl-C would end the workers before the run
        pin_memory=pin_memory,
        # otherwise each iteration would draw from the global generator
        generator=torch.Generator().manual_seed(key_seed("loader", seed)),
    )


class BatchDataset(TorchDataset[Sample]):
    """Batches of a data set in memory, which needs no reading ahead; `ReadAhead` is for all others."""

    def __init__(self, dataset: Dataset, draws: Callable[[Sequence[int]], list[list[Draw]]]) -> None:
        self._dataset, self._plan = dataset, Plan(draws)

    def __getitems__(self, numbers: list[int]) -> list[Sample]:
        [number] = numbers
        return [sample | {"retries": 0} for sample in self._dataset.read(self._plan(number, worker_stride()))]


class _Numbers(Sampler[list[int]]):
    """Yields the numbers of batches, one at a time and without end."""

    def __iter__(self) -> Iterator[list[int]]:
        return ([number] for number in itertools.count())


def worker_stride() -> int:
    """Return the difference between the numbers of two consecutive batches of this worker."""
    worker = get_worker_info()
    return worker.num_workers if worker else 1


def process(trainer: pl.Trainer | None) -> tuple[int, int, bool]:
    """Return (rank, number of processes, whether the device is CUDA)."""
    if trainer is None:
        return 0, 1, False
    return trainer.global_rank, trainer.world_size, trainer.strategy.root_device.type == "cuda"
