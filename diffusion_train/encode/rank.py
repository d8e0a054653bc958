"""The processes that encode together: the slice of each, and sums over all of them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies import DDPStrategy
from numpy.typing import NDArray
from tqdm import tqdm

_BLOCK = 64  # samples


class Rank(NamedTuple):
    """One of `world_size` processes, and its device."""

    number: int = 0
    world_size: int = 1
    device: torch.device = torch.device("cpu")

    def slice_of(self, samples: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return this process's samples (m,) of `samples` (n,).

        Blocks of neighbours go to the processes in turn, so that new samples at the end are divided among all of them.
        """
        mine: NDArray[np.bool_] = samples // _BLOCK % self.world_size == self.number
        return samples[mine]

    def progress(self, action: str, unit: str, total: int | None = None) -> tqdm[None]:
        """Return a progress bar for this process's slice; only the first process shows it."""
        hidden = None if self.number == 0 else True
        return tqdm(total=total, desc=action, unit=unit, mininterval=0.5, disable=hidden)


class Ranks:
    """Launches the processes. One that has finished its slice waits for the others without a short timeout."""

    def __init__(self, **settings: Any) -> None:
        fabric = Fabric(**settings)
        if isinstance(fabric.strategy, DDPStrategy):
            fabric = Fabric(**settings, strategy=DDPStrategy(timeout=timedelta(weeks=4)))
        fabric.launch()
        self._fabric = fabric
        self.mine = Rank(fabric.global_rank, fabric.world_size, fabric.device)

    def reduce(self, number: int, reduce_op: str = "sum") -> int:
        """Reduce a number over all processes; this waits for the last of them."""
        reduced = self._fabric.all_reduce(torch.tensor(number, device=self.mine.device), reduce_op=reduce_op)
        assert isinstance(reduced, torch.Tensor)
        return int(reduced)
