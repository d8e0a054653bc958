"""Fetch items ahead of time, with one thread in the background."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

log = logging.getLogger(__name__)
T = TypeVar("T")
_MOST_WAITING = 128
_AT_ONCE = 4


class Prefetcher(Generic[T]):
    """Calls `fetch` with a few items at a time, in order, in a thread that ends when no items are queued.

    If `fetch` raises, this is only logged, and the queue is cleared: reading an item raises the same error.
    """

    _running: bool

    def __init__(self, fetch: Callable[[list[T]], None]) -> None:
        self._fetch = fetch
        self._start_anew()

    def add(self, items: Iterable[T]) -> bool:
        """Queue items; return False, and queue nothing, while `_MOST_WAITING` items are queued."""
        if self._process != os.getpid():
            self._start_anew()
        with self._lock:
            if len(self._waiting) >= _MOST_WAITING:
                return False
            self._waiting.update(dict.fromkeys(items))
            if self._waiting and not self._running:
                self._running = True
                threading.Thread(target=self._work, name="prefetch", daemon=True).start()
            return True

    def _work(self) -> None:
        while items := self._next():
            try:
                self._fetch(items)
            except Exception as error:  # noqa: BLE001
                log.debug("prefetch: %s", error)
                with self._lock:
                    self._waiting.clear()

    def _next(self) -> list[T]:
        with self._lock:
            items = list(self._waiting)[:_AT_ONCE]
            for item in items:
                del self._waiting[item]
            self._running = bool(items)
            return items

    def _start_anew(self) -> None:
        """Reset the state, also in a forked process, which does not have the thread."""
        self._process, self._lock, self._running = os.getpid(), threading.Lock(), False
        self._waiting: dict[T, None] = {}
