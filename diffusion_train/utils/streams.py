"""Standard output and error that may be closed, or whose reader may end first, as in `... | head -1`."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any


class _Unbroken:
    """A stream that drops what is written once nobody reads it any more:
    its pipe is closed, or its terminal is gone.
    """

    def __init__(self, stream: Any) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        try:
            return int(self.stream.write(text))
        except OSError:
            self._drop()
            return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        try:
            self.stream.flush()
        except OSError:
            self._drop()

    def _drop(self) -> None:
        """Let the stream's buffer, too, go to the null device: Python flushes it when the process ends."""
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, self.stream.fileno())
        os.close(null)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@contextmanager
def unbroken_streams() -> Iterator[None]:
    """Inside the block, a closed standard output or error is no error and changes no exit code.

    A stream that the process began without, as with `>&-`, is the null device.
    """
    before = sys.stdout, sys.stderr
    streams = (open(os.devnull, "w") if stream is None else stream for stream in before)  # noqa: SIM115
    sys.stdout, sys.stderr = (_Unbroken(stream) for stream in streams)  # type: ignore[assignment]
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, _Unbroken):
                stream.flush()
        sys.stdout, sys.stderr = before
