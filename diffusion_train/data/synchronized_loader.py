"""Stop all processes together: if one cannot read its data, none begins a step without it."""

from __future__ import annotations

import signal
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from diffusion_train.data.storage.base import StorageError
from diffusion_train.utils.process.interruption import OnAllRanks, Stopping, stop_request

T = TypeVar("T")


class StoppedOnAllRanks(StorageError, OnAllRanks):
    """Raised by every process at the same step, after the storage of one of them failed."""


def together(loader: Iterable[T]) -> Iterable[T]:
    """Return `loader`, with which all processes stop at the same step."""
    return SynchronizedLoader(loader)


class SynchronizedLoader(Iterable[T]):
    """Yields an item of `loader` when all processes have theirs; if one process fails, all of them raise.

    A StorageError is raised in all processes as StoppedOnAllRanks, which names the failed process. A request to stop
    and the end of a worker process are raised in all as Stopping. Any other exception is raised in its own process, and
    as a RuntimeError in the others. Messages are exchanged on the CPU, so that no device waits.
    """

    def __init__(self, loader: Iterable[T]) -> None:
        self.loader = loader
        self._world_size = dist.get_world_size() if dist.is_initialized() else 1
        self._group: Any = dist.new_group(backend="gloo") if self._world_size > 1 else None

    @property
    def _iterator(self) -> Any:
        """The iterator of the DataLoader, with which Lightning ends its workers."""
        return getattr(self.loader, "_iterator", None)

    @_iterator.setter
    def _iterator(self, iterator: Any) -> None:
        if hasattr(self.loader, "_iterator"):
            self.loader._iterator = iterator

    def __iter__(self) -> Iterator[T]:
        items, fault = _iterator(self.loader), None
        while True:
            try:
                with stop_request.stoppable():
                    item = next(items)
            except Exception as error:  # noqa: BLE001  after any error the others must not wait for this process
                fault = _of_worker(items, error)
            if self._any(fault is not None):
                self._stop(fault)
            yield item

    def _any(self, failed: bool) -> bool:
        flag = torch.tensor(int(failed))
        if self._group is not None:
            dist.all_reduce(flag, dist.ReduceOp.MAX, group=self._group)
        return bool(flag)

    def _stop(self, fault: Exception | None) -> None:
        if self._group is None:
            assert fault
            raise fault
        reports: list[Any] = [None] * self._world_size
        dist.all_gather_object(reports, fault and (_kind(fault), _last_line(fault)), group=self._group)
        if fault and _kind(fault) is RuntimeError:
            raise fault
        failed = [(rank, *one) for rank, one in enumerate(reports) if one]
        rank, kind, reason = min(failed, key=lambda one: _WORST_FIRST.index(one[1]))
        text = f"process {rank} of {len(reports)}{': ' if kind is Stopping else ' cannot read its data: '}{reason}"
        raise kind(text if reason else "") from fault


_WORST_FIRST = (RuntimeError, StoppedOnAllRanks, Stopping)


def _iterator(loader: Iterable[T]) -> Iterator[T]:
    """Start a loader without torch's handler of SIGCHLD, which raises between any two lines if a worker is killed."""
    before = signal.getsignal(signal.SIGCHLD)
    items = iter(loader)
    if signal.getsignal(signal.SIGCHLD) != before:
        signal.signal(signal.SIGCHLD, before)
    return items


def _of_worker(items: Any, error: Exception) -> Exception:
    """Return `error`, or in its place a Stopping that names the worker that ended."""
    for number, worker in enumerate(getattr(items, "_workers", ())):
        if worker.exitcode and not isinstance(error, Stopping):
            return Stopping(f"data worker {number} (process {worker.pid}) {_how_it_ended(worker.exitcode)}")
    return error


def _how_it_ended(code: int) -> str:
    if code > 0:
        return f"ended with exit code {code}"
    name = signal.Signals(-code).name
    causes = {
        signal.SIGKILL: (
            "; the system does this when memory runs out: reduce data.num_workers or give the job more memory"
        ),
        signal.SIGBUS: "; shared memory may be full: reduce data.num_workers or enlarge /dev/shm",
    }
    return f"was ended by {name}{causes.get(signal.Signals(-code), '')}"


def _kind(fault: Exception) -> type[Exception]:
    """Return the exception that all processes raise."""
    kinds = {Stopping: Stopping, StorageError: StoppedOnAllRanks}
    return next((kind for of, kind in kinds.items() if isinstance(fault, of)), RuntimeError)


def _last_line(fault: Exception) -> str:
    """Return the cause: a worker process sends its whole traceback."""
    if isinstance(fault, Stopping):
        return str(fault)
    return (str(fault).strip().splitlines() or [repr(fault)])[-1]
