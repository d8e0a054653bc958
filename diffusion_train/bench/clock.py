"""Measures time on a device, and divides a step's time among its phases.

Nothing waits for a GPU while it is timed: marks are events in the GPU's own queue, read after the last one has passed.
A phase on a GPU is therefore the time by which it delays the GPU. Work of the CPU that the GPU does not wait for counts
nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from itertools import pairwise
from time import perf_counter
from typing import Any, ParamSpec, Protocol, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")


class Timer(Protocol):
    """Marks points in a device's time."""

    def mark(self) -> Any:
        """Return a mark for now."""

    def seconds(self, start: Any, end: Any) -> float:
        """Return the time between two marks. May wait for the second one."""


class CpuTimer:
    """The wall clock."""

    def mark(self) -> float:
        return perf_counter()

    def seconds(self, start: float, end: float) -> float:
        return end - start


class CudaTimer:
    """The clock of the current GPU."""

    def mark(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event

    def seconds(self, start: torch.cuda.Event, end: torch.cuda.Event) -> float:
        end.synchronize()
        return float(start.elapsed_time(end)) / 1000


def timer_of(device: torch.device) -> Timer:
    """Raises ValueError for devices whose time cannot be measured without waiting for them."""
    if device.type not in ("cuda", "cpu"):
        raise ValueError(f"bench can time CUDA GPUs and CPUs, got {device.type}; give trainer=cpu")
    return CudaTimer() if device.type == "cuda" else CpuTimer()


class PhaseClock:
    """Divides time among phases, of which exactly one holds at a time, so that they add up to the whole.

    A phase inside another one pauses it. Outside of all phases, time counts as "other". Nothing is measured before
    `start`.
    """

    def __init__(self, timer: Timer) -> None:
        self.timer = timer
        self._phases = ["other"]
        self._marks: list[tuple[str, Any]] | None = None

    def start(self) -> None:
        self._marks = [(self._phases[-1], self.timer.mark())]

    def stop(self) -> dict[str, float]:
        """Return the seconds of each phase since `start`."""
        assert self._marks is not None
        marks = [*self._marks, ("", self.timer.mark())]
        self._marks = None
        self.timer.seconds(marks[0][1], marks[-1][1])  # waits once, for the last mark
        seconds: dict[str, float] = {}
        for (phase, start), (_, end) in pairwise(marks):
            seconds[phase] = seconds.get(phase, 0.0) + self.timer.seconds(start, end)
        return seconds

    def enter(self, phase: str) -> None:
        self._change([*self._phases, phase])

    def leave(self) -> None:
        self._change(self._phases[:-1])

    def timed(self, phase: str, function: Callable[P, R]) -> Callable[P, R]:
        """Return `function` with its time counted as `phase`."""

        @wraps(function)
        def run(*args: P.args, **kwargs: P.kwargs) -> R:
            with self.phase(phase):
                return function(*args, **kwargs)

        return run

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        self.enter(name)
        try:
            yield
        finally:
            self.leave()

    def _change(self, phases: list[str]) -> None:
        if self._marks is not None and phases[-1] != self._phases[-1]:
            self._marks.append((phases[-1], self.timer.mark()))
        self._phases = phases
