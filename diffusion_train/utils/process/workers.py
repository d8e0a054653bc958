"""Worker processes that run tasks and return results in order.

Each worker has a separate pipe: if a worker is killed, its pipe closes and nothing hangs. (In the pools of the standard
library all workers share one pipe, and one that dies while it sends a large result blocks the others.)
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

from diffusion_train.utils.process.child_process import serve_parent

T = TypeVar("T")
R = TypeVar("R")


class WorkerDied(RuntimeError):
    """A worker process ended before its task was done; it was killed, perhaps because memory ran out."""


class Workers:
    """Runs tasks in `num_workers` processes, or in this one if it is 0. Use it in a `with` statement.

    Functions, arguments and results must be picklable. A worker keeps the last function it received, so that a large
    one (such as a `partial` with data) is sent once. The workers end when this process ends for any reason.
    """

    def __init__(self, num_workers: int) -> None:
        self.num_workers = num_workers
        self._free: SimpleQueue[Connection] = SimpleQueue()
        self._functions: dict[Connection, Callable[..., Any]] = {}
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
        """Yield results in the order of the tasks, which are read only a few ahead. Raises WorkerDied."""
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
        """Run a task before the `with` statement ends, which raises its error."""
        if self.num_workers:
            self._later.append(self._callers.submit(self._call, function, task))
        else:
            function(task)

    def _call(self, function: Callable[[T], Any], task: T) -> Any:
        connection = self._free.get()
        try:
            known = self._functions.get(connection) is function
            connection.send((None if known else function, task))
            self._functions[connection] = function
            result, error = connection.recv()
        except (EOFError, OSError) as gone:
            raise WorkerDied("a worker was killed, perhaps because memory ran out") from gone
        finally:
            self._free.put(connection)
        if error is not None:
            raise error
        return result


def available() -> int:
    """Return the number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _serve(connection: Connection) -> None:
    """Run tasks until the other end of the pipe is closed, which also happens if its process dies."""
    serve_parent()
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
