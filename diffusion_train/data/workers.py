"""Other processes that work through tasks in order."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import connection
from typing import Self, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class Workers:
    """`num_workers` processes, or none: then the work is done in this one. To be used in a `with` statement.

    The functions and what they take and give must be picklable. The processes end with this one, however it ends.
    """

    def __init__(self, num_workers: int) -> None:
        self.num_workers = num_workers
        self._pool: ProcessPoolExecutor | None = None
        self._later: list[Future[None]] = []

    def __enter__(self) -> Self:
        if self.num_workers:
            context = multiprocessing.get_context("spawn")  # threads of the libraries here do not survive a fork
            self._pool = ProcessPoolExecutor(self.num_workers, context, initializer=_end_with_parent)
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if self._pool:
            self._pool.shutdown(wait=True, cancel_futures=kind is not None)
        if kind is None:
            for future in self._later:
                future.result()

    def map(self, function: Callable[[T], R], tasks: Iterable[T]) -> Iterator[R]:
        """Results in the order of the tasks, of which only some are taken ahead."""
        if self._pool is None:
            yield from map(function, tasks)
            return
        waiting: deque[Future[R]] = deque()
        for task in tasks:
            waiting.append(self._pool.submit(function, task))
            if len(waiting) > 2 * self.num_workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    def later(self, function: Callable[[T], None], task: T) -> None:
        """Done before the `with` statement ends, which raises what it raised."""
        if self._pool is None:
            function(task)
        else:
            self._later.append(self._pool.submit(function, task))


def available() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _end_with_parent() -> None:
    """Ctrl-C is told to the parent; where that is killed nobody would tell its workers to end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_wait_then_end, args=(parent.sentinel,), daemon=True).start()


def _wait_then_end(sentinel: int) -> None:
    connection.wait([sentinel])
    os._exit(1)
