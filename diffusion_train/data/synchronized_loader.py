"""Stop all processes together: if one cannot read its data, none begins a step without it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from diffusion_train.data.storage.base import StorageError

T = TypeVar("T")


class StoppedOnAllRanks(StorageError):
    """Raised by every process at the same step, after the storage of one of them failed."""


def together(loader: Iterable[T]) -> Iterable[T]:
    """Return a synchronized `loader`, or `loader` itself if there is only one process."""
    return SynchronizedLoader(loader) if dist.is_initialized() and dist.get_world_size() > 1 else loader


class SynchronizedLoader(Iterable[T]):
    """Yields an item of `loader` when all processes have theirs; if one process fails, all of them raise.

    A StorageError is raised in all processes as StoppedOnAllRanks, which names the failed process. Any other exception is
    raised in its own process, and as a RuntimeError in the others. Messages are exchanged on the CPU, so that no device
    waits.
    """

    def __init__(self, loader: Iterable[T]) -> None:
        self.loader = loader
        self._group: Any = dist.new_group(backend="gloo")

    @property
    def _iterator(self) -> Any:
        """The iterator of the DataLoader, with which Lightning ends its workers."""
        return getattr(self.loader, "_iterator", None)

    @_iterator.setter
    def _iterator(self, iterator: Any) -> None:
        if hasattr(self.loader, "_iterator"):
            self.loader._iterator = iterator

    def __iter__(self) -> Iterator[T]:
        items, fault = iter(self.loader), None
        while True:
            try:
                item = next(items)
            except Exception as error:  # noqa: BLE001  after any error the others must not wait for this process
                fault = error
            if self._any(fault is not None):
                self._stop(fault)
            yield item

    def _any(self, failed: bool) -> bool:
        flag = torch.tensor(int(failed))
        dist.all_reduce(flag, dist.ReduceOp.MAX, group=self._group)
        return bool(flag)

    def _stop(self, fault: Exception | None) -> None:
        reports: list[Any] = [None] * dist.get_world_size()
        mine = fault and (isinstance(fault, StorageError), (str(fault).strip().splitlines() or [repr(fault)])[-1])
        dist.all_gather_object(reports, mine, group=self._group)
        if fault and not isinstance(fault, StorageError):
            raise fault
        rank, (of_storage, reason) = next((rank, one) for rank, one in enumerate(reports) if one)
        text = f"process {rank} of {len(reports)} cannot read its data: {reason}"
        raise (StoppedOnAllRanks if of_storage else RuntimeError)(text) from fault
