"""What training steps take: seconds on the wall and of all cores, and memory at its peak. Comparisons of two sides."""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import pytorch_lightning as pl
import torch

from diffusion_train.utils.process.memory import peak_bytes

T = TypeVar("T")
PACKAGES = ("torch", "diffusers", "accelerate", "pytorch-lightning")
CPU_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "bf16")


class Meter:
    """Call `start` before the first step and `step` after each; the first `warm_up` steps count for memory alone."""

    def __init__(self, warm_up: int) -> None:
        self.warm_up = warm_up

    def start(self) -> None:
        self.ends: list[tuple[float, float]] = []
        self.marks: list[torch.cuda.Event] = []
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        with suppress(OSError):  # elsewhere than on Linux, the peak since the process began stays
            Path("/proc/self/clear_refs").write_text("5")
        self.step()

    def step(self) -> None:
        if torch.cuda.is_available():
            self.marks.append(torch.cuda.Event(enable_timing=True))
            self.marks[-1].record()
        self.ends.append((time.perf_counter(), time.process_time()))

    @property
    def figures(self) -> dict[str, float]:
        """Medians from the end of one step to the end of the next, on a GPU by its own clock, and bytes at the peak.

        `mean_seconds` also counts what only some steps do, such as writing a log.
        """
        seconds, cpu_seconds = (
            statistics.median(end - start for start, end in pairwise(ends))
            for ends in zip(*self.ends[self.warm_up :], strict=True)
        )
        mean_seconds = (self.ends[-1][0] - self.ends[self.warm_up][0]) / (len(self.ends) - self.warm_up - 1)
        if self.marks:
            self.marks[-1].synchronize()
            marks = [start.elapsed_time(end) / 1000 for start, end in pairwise(self.marks[self.warm_up :])]
            seconds, mean_seconds = statistics.median(marks), statistics.mean(marks)
        figures = {"seconds": seconds, "mean_seconds": mean_seconds, "cpu_seconds": cpu_seconds}
        return {**figures, "bytes": peak_bytes()}


class Clock(pl.Callback):
    """A Meter of a run of ours, which leaves its figures in `file`."""

    def __init__(self, file: str, warm_up: int) -> None:
        self.file, self.meter = Path(file), Meter(warm_up)

    def on_train_start(self, trainer: Any, module: Any) -> None:
        self.meter.start()

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.meter.step()

    def on_train_end(self, trainer: Any, module: Any) -> None:
        self.file.write_text(json.dumps(self.meter.figures))


def pairs(first: Callable[[], T], second: Callable[[], T], count: int) -> Iterator[tuple[T, T]]:
    """Yield what both return, `count` times, each time in the opposite order: what slows the machine slows both."""
    for number in range(count):
        if number % 2:
            other, one = second(), first()
        else:
            one, other = first(), second()
        yield one, other


def spread(ratios: Sequence[float]) -> str:
    """Return the median with the range."""
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def machine() -> str:
    """Return the versions, the processor with its flags, the threads of torch and the load of the machine."""
    facts: dict[str, str] = {}
    with suppress(OSError), open("/proc/cpuinfo") as file:
        for line in file:
            key, _, value = line.partition(":")
            facts.setdefault(key.strip(), value.strip())
    present = (facts.get("flags") or facts.get("Features") or "").split()
    flags = [flag for flag in CPU_FLAGS if flag in present]
    gpu = [torch.cuda.get_device_name()] if torch.cuda.is_available() else []
    return "\n".join(
        [
            ", ".join(f"{package} {version(package)}" for package in PACKAGES),
            f"{facts.get('model name', 'unknown processor')}, of its flags: {' '.join(flags) or 'none that is sought'}",
            *gpu,
            f"{torch.get_num_threads()} threads of torch on {os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}",
        ]
    )
