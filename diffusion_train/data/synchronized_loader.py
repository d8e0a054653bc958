"""Processes that stop together: where one cannot read its data, none begins the step that it would be missing in."""

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
    """`loader`, on which the processes of a group agree; itself where there is none."""
    return SynchronizedLoader(loader) if dist.is_initialized() and dist.get_world_size() > 1 else loader


class SynchronizedLoader(Iterable[T]):
    """Items of `loader`, each after all processes have theirs; otherwise all of them raise.

    StoppedTogether names the process and its fault where the fault is a StorageError. Any other is raised where it came
    up, and raised in the others as a RuntimeError. What is exchanged lies on the CPU: no device is made to wait.
    """

    def __init__(self, loader: Iterable[T]) -> None:
        self.loader = loader
        self._group: Any = dist.new_group(backend="gloo")

    @property
    def _iterator(self) -> Any:
        """By which Lightning ends the workers of a DataLoader."""
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
            except Exception as error:  # noqa: BLE001  whatever it is, the others must not wait for this process
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
