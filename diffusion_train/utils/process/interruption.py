"""What a signal does to a command: it interrupts the command, or stops a training run between two steps."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from diffusion_train.utils.exit_code import Exit
from diffusion_train.utils.process.launcher import common_code

OF_CLUSTERS = (signal.SIGTERM, signal.SIGUSR1)
SIGNALS = (signal.SIGINT, *OF_CLUSTERS)
TIME_TO_LEAVE = 20.0  # seconds


class Interrupted(KeyboardInterrupt):
    """A cluster's signal interrupted the process; the same command is likely to be run again."""


class OnAllRanks(Exception):
    """All ranks raise it between the same two steps, so they can still exchange messages."""


class Stopping(OnAllRanks):
    """The run ends and can be resumed. The text is the cause, if not a signal."""


class StopRequest:
    """Whether a signal asked this process to stop its training run."""

    def __init__(self) -> None:
        self.is_made = self._raises = False

    def make(self) -> None:
        """Raises Stopping inside a block of `stoppable`."""
        self.is_made = True
        if self._raises:
            self._raises = False
            raise Stopping

    @contextmanager
    def stoppable(self) -> Iterator[None]:
        """Let a request, also an earlier one, raise Stopping inside the block.

        It may come between any two lines, so the block must neither change the state of the run nor write files.
        """
        if self.is_made:
            raise Stopping
        self._raises = True
        try:
            yield
        finally:
            self._raises = False


stop_request = StopRequest()  # of the process, as signals are


def interrupt(number: int, frame: FrameType | None = None) -> None:
    """Handle a signal: raise KeyboardInterrupt for Ctrl-C, Interrupted for the others."""
    leave_soon(exit_code(number))
    raise KeyboardInterrupt if number == signal.SIGINT else Interrupted(signal.Signals(number).name)


def exit_code(number: int) -> Exit:
    """Return the exit code of this process after the signal."""
    return common_code(Exit.INTERRUPTED if number == signal.SIGINT else Exit.STOPPED)


def announce(text: str) -> None:
    """Print a line on standard error from a handler of signals; if nobody reads it, do nothing.

    `print` fails if the signal came while another one was writing.
    """
    with suppress(OSError):
        os.write(2, f"\n{text}\n".encode())


def exit_at_signals() -> None:
    """Let a signal end the process at once, with its exit code: nothing has begun yet."""

    def leave(number: int, frame: FrameType | None) -> None:
        announce(f"{signal.Signals(number).name}: interrupted")
        os._exit(exit_code(number))

    for number in SIGNALS:
        signal.signal(number, leave)
    unblock_signals()


def in_main_thread() -> bool:
    """Return whether this thread may set handlers of signals, which only the main thread may."""
    return threading.current_thread() is threading.main_thread()


@contextmanager
def interruptible() -> Iterator[None]:
    """Let SIGTERM and SIGUSR1 raise Interrupted inside the block, instead of killing the process.

    An interrupted process that does not leave the block within TIME_TO_LEAVE seconds ends with the same exit code: it
    may wait inside a library for another process, where Python handles no signals.
    """
    if not in_main_thread():
        yield
        return
    before = {number: signal.signal(number, interrupt) for number in OF_CLUSTERS}
    try:
        with _watch.running():
            unblock_signals()
            yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def handlers_restored() -> Iterator[None]:
    """Restore the handlers of all signals used here after the block."""
    before = {number: signal.getsignal(number) for number in (*SIGNALS, signal.SIGUSR2)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def signals_blocked() -> Iterator[None]:
    """Block the signals in this thread and, until they unblock them, in the processes that it starts."""
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        unblock_signals()


def unblock_signals() -> None:
    """Handle signals from now on, also those that came while the process that started this one blocked them."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def leave_soon(code: int) -> None:
    """End the process with `code` if it does not leave the block of `interruptible` within TIME_TO_LEAVE seconds."""
    _watch.leave_soon(code)


def interruption_is_pending() -> bool:
    """Return whether a signal has interrupted this process, which is about to end."""
    return _watch.deadline is not None


class _Watch:
    """A thread that sees signals while the main thread waits inside a library."""

    def __init__(self) -> None:
        self.deadline: threading.Timer | None = None
        self._pipe: tuple[int, int] | None = None

    @contextmanager
    def running(self) -> Iterator[None]:
        reader, writer = self._pipe = os.pipe()
        os.set_blocking(writer, False)
        before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        thread = threading.Thread(target=self._see, args=(reader,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            signal.set_wakeup_fd(before)
            os.write(writer, b"\0")
            thread.join()
            os.close(reader)
            os.close(writer)
            self._pipe = None
            self._cancel()

    def _see(self, reader: int) -> None:
        while number := os.read(reader, 1)[0]:
            if number in SIGNALS and signal.getsignal(number) in (interrupt, signal.default_int_handler):
                self.leave_soon(exit_code(number))

    def leave_soon(self, code: int) -> None:
        if self._pipe and not self.deadline:
            self.deadline = threading.Timer(TIME_TO_LEAVE, _end, (code,))
            self.deadline.daemon = True
            self.deadline.start()

    def _cancel(self) -> None:
        """Forget the deadline. Workers that are busy would delay the end of the process: end them."""
        if self.deadline:
            self.deadline.cancel()
            self.deadline = None
            for process in multiprocessing.active_children():
                process.kill()

    def forget(self) -> None:
        """In a forked process: leave its parent's pipe alone."""
        if self._pipe:
            signal.set_wakeup_fd(-1)
            self._pipe = self.deadline = None


def _end(code: int) -> None:
    announce(f"the process did not end within {TIME_TO_LEAVE:.0f} s after the signal and is ended now")
    os._exit(code)


_watch = _Watch()
os.register_at_fork(after_in_child=_watch.forget)
