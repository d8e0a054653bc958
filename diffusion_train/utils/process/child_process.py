"""Worker processes: they ignore signals, which their parent handles, and end when the parent ends."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable

from diffusion_train.utils.process.interruption import SIGNALS

GRACE = 30.0  # seconds
_LOOK_EVERY = 0.5  # seconds


def serve_parent(worker: int = 0) -> None:
    """Ignore signals in a worker process, because the parent receives those sent to the process group too.

    SIGTERM, by which a parent ends its workers, takes effect after GRACE seconds: the parent may need the worker for
    the current step. The worker ends if its parent does. The function can be the `worker_init_fn` of a DataLoader.
    """
    for number in (*SIGNALS, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: _end_later())
    started_by = multiprocessing.parent_process()
    if started_by is None or started_by.pid == os.getppid():
        end_with(os.getppid())
    else:  # a fork server is the parent, or the parent has ended
        _end_after(started_by.join)


def end_with(parent: int) -> None:
    """End this process soon after its parent, the process with the id `parent`, ended for any reason."""

    def wait() -> None:
        while os.getppid() == parent:
            time.sleep(_LOOK_EVERY)

    _end_after(wait)


def _end_after(wait: Callable[[], None]) -> None:
    def end() -> None:
        wait()
        os._exit(1)

    threading.Thread(target=end, daemon=True).start()


def _end_later() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    timer = threading.Timer(GRACE, os._exit, (1,))
    timer.daemon = True
    timer.start()
