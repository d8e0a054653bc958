"""Other processes that work through tasks in order.

Each has a pipe of its own: where one is killed its pipe ends, and nothing waits for ever. (In the pools of the standard
library all share one, and a process that dies in the middle of a large result leaves the others hanging.)
"""

from __future__ import annotations

import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Any, Self, TypeVar

from diffusion_train.utils.interruption import leave_signals_to_the_parent

T = TypeVar("T")
R = TypeVar("R")


class WorkerDied(RuntimeError):
    """A process ended before its task was done: it was killed, perhaps for want of memory."""


class Workers:
    """`num_workers` processes, or none: then the work is done in this one. To be used in a `with` statement.

    The functions and what they take and give must be picklable. A process keeps the last function it was given, so that
    one with much inside (a `partial`, say) travels once. The processes end with this one, however it ends.
    """

    def __init__(self, num_workers: int) -> None:
        self.num_workers = num_workers
        self._free: SimpleQueue[Connection] = SimpleQueue()
        self._given: dict[Connection, Callable[..., Any]] = {}
        self._later: list[Future[None]] = []

    def __enter__(self) -> Self:
        context = multiprocessing.get_context("spawn")  # threads of the libraries here do not survive a fork
        for _ in range(self.num_workers):
            ours, theirs = context.Pipe()
            context.Process(target=_serve, args=(theirs,), daemon=True).start()
            theirs.close()
            self._free.put(ours)
        self._callers = ThreadPoolExecutor(max(1, self.num_workers))
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        self._callers.shutdown(wait=True, cancel_futures=kind is not None)
        for _ in range(self.num_workers):
            self._free.get().close()
        if kind is None:
            for future in self._later:
                future.result()

    def map(self, function: Callable[[T], R], tasks: Iterable[T]) -> Iterator[R]:
        """Results in the order of the tasks, of which only some are taken ahead. Raises WorkerDied."""
        if not self.num_workers:
            yield from map(function, tasks)
            return
        waiting: deque[Future[R]] = deque()
        for task in tasks:
            waiting.append(self._callers.submit(self._call, function, task))
            if len(waiting) > 2 * self.num_workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    def later(self, function: Callable[[T], None], task: T) -> None:
        """Done before the `with` statement ends, which raises what it raised."""
        if self.num_workers:
            self._later.append(self._callers.submit(self._call, function, task))
        else:
            function(task)

    def _call(self, function: Callable[[T], Any], task: T) -> Any:
        connection = self._free.get()
        try:
            kept = self._given.get(connection) is function
            connection.send((None if kept else function, task))
            self._given[connection] = function
            result, error = connection.recv()
        except (EOFError, OSError) as gone:
            raise WorkerDied("a worker was killed, perhaps for want of memory") from gone
        finally:
            self._free.put(connection)
        if error is not None:
            raise error
        return result


def available() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _serve(connection: Connection) -> None:
    """Until the other end is closed, by its process or by its death."""
    leave_signals_to_the_parent()
    function: Callable[[Any], Any] | None = None
    with suppress(EOFError, OSError):
        while True:
            given, task = connection.recv()
            function = given or function
            assert function
            try:
                result: tuple[Any, Exception | None] = (function(task), None)
            except Exception as error:  # noqa: BLE001 (the caller raises it)
                result = (None, error)
            connection.send(result)
