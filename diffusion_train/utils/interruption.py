"""Handles the signals of clusters outside of training steps."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

GRACE = 30.0  # seconds
_OF_CLUSTERS = (signal.SIGTERM, signal.SIGUSR1)


class Interrupted(KeyboardInterrupt):
    """A cluster's signal interrupted the process; the same command is likely to be run again."""


def interrupt(number: int, frame: FrameType | None = None) -> None:
    """Handle a signal: raise KeyboardInterrupt for Ctrl-C, Interrupted for the others."""
    raise KeyboardInterrupt if number == signal.SIGINT else Interrupted(signal.Signals(number).name)


@contextmanager
def interruptible() -> Iterator[None]:
    """Let SIGTERM and SIGUSR1 raise Interrupted inside the block, instead of killing the process."""
    main = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, interrupt) for number in _OF_CLUSTERS if main}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def leave_signals_to_the_parent(worker: int = 0) -> None:
    """Ignore signals in a worker process, because the parent receives those sent to the process group too.

    SIGTERM, by which a parent ends its workers, takes effect after GRACE seconds: the parent may need the worker for
    the current step. The function can be the `worker_init_fn` of a DataLoader.
    """
    for number in (signal.SIGINT, *_OF_CLUSTERS):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _end_later)


def _end_later(number: int, frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_IGN)
    timer = threading.Timer(GRACE, os._exit, (1,))
    timer.daemon = True
    timer.start()
