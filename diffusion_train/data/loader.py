"""The loader of training: an item is one process's share of one global batch, without end."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Sampler, get_worker_info
from torch.utils.data import Dataset as TorchDataset

from diffusion_train.data.dataset import Dataset
from diffusion_train.data.image.collate import stack
from diffusion_train.data.order.order import Draw
from diffusion_train.data.read_ahead import Ahead
from diffusion_train.utils.interruption import leave_signals_to_the_parent
from diffusion_train.utils.rng import key_seed

if TYPE_CHECKING:
    from diffusion_train.data.datamodule import DataModule

Batch = dict[str, Any]


def loader(reads: Reads, num_workers: int, seed: int, pin_memory: bool) -> DataLoader[Batch]:
    return DataLoader(
        reads,
        batch_sampler=_Numbers(),
        collate_fn=stack,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        worker_init_fn=leave_signals_to_the_parent,  # Ctrl-C would end workers and then the run
        pin_memory=pin_memory,
        # without a generator of its own each iteration would draw from the global one
        generator=torch.Generator().manual_seed(key_seed("loader", seed)),
    )


class Reads(TorchDataset[Batch]):
    """The number of a batch -> its samples: all that a worker does."""

    def __init__(self, dataset: Dataset, ahead: Ahead) -> None:
        self.dataset, self.ahead = dataset, ahead
        self.told: int | None = None  # retries, when this process last read a batch

    def __getitems__(self, numbers: list[int]) -> list[Batch]:
        """`retries` of the first sample tells how many requests were repeated meanwhile."""
        [number] = numbers
        told = self.dataset.num_retries if self.told is None else self.told
        worker = get_worker_info()
        samples = self.ahead.read(number, worker.num_workers if worker else 1)
        self.told = self.dataset.num_retries
        for place, sample in enumerate(samples):
            sample["retries"] = 0 if place else self.told - told
        return samples


class _Numbers(Sampler[list[int]]):
    """Of batches, one at a time and without end."""

    def __iter__(self) -> Iterator[list[int]]:
        return ([number] for number in itertools.count())


class Shares:
    """This process's places of global batches by their numbers, which are counted from the start."""

    def __init__(self, data: DataModule, places: Sequence[int]) -> None:
        self.order, self.resolution = data.order, data.resolution
        self.batch_size, self.places = data.batch_size, places
        self.start_step, self.start_position = data.start_step, data.start_position
        self.repeated = (data.num_repeated_batches or sys.maxsize) * data.batch_size

    def __call__(self, numbers: Sequence[int]) -> list[list[Draw]]:
        positions = [(self.start_position + number * self.batch_size) % self.repeated for number in numbers]
        batches = self.order.batches(positions, self.batch_size, self.places)
        if not self.resolution:
            return batches
        steps = (self.start_step + number for number in numbers)
        return [self.resolution.shaped(draws, step) for draws, step in zip(batches, steps, strict=True)]


def process(trainer: pl.Trainer | None) -> tuple[int, int, bool]:
    """(rank, number of processes, on CUDA)"""
    if trainer is None:
        return 0, 1, False
    return trainer.global_rank, trainer.world_size, trainer.strategy.root_device.type == "cuda"
