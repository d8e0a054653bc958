"""What a cluster's signals do outside of a training's steps."""

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
    """By a cluster's signal: the same command is likely to be given again."""


def interrupt(number: int, frame: FrameType | None = None) -> None:
    """A handler: KeyboardInterrupt for Ctrl-C, Interrupted for the others."""
    raise KeyboardInterrupt if number == signal.SIGINT else Interrupted(signal.Signals(number).name)


@contextmanager
def interruptible() -> Iterator[None]:
    """SIGTERM and SIGUSR1 interrupt as Ctrl-C does, instead of killing the process without a word."""
    main = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, interrupt) for number in _OF_CLUSTERS if main}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def leave_signals_to_the_parent(worker: int = 0) -> None:
    """For a process that works for another one, and gets what is sent to the whole group.

    SIGTERM, which is also how a parent ends it, takes effect after GRACE seconds: the parent may need it for the step
    at hand. Serves as `worker_init_fn` of a DataLoader.
    """
    for number in (signal.SIGINT, *_OF_CLUSTERS):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _end_later)


def _end_later(number: int, frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_IGN)
    timer = threading.Timer(GRACE, os._exit, (1,))
    timer.daemon = True
    timer.start()
