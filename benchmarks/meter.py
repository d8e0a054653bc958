"""What training steps take: seconds on the wall and of all cores, and memory at its peak."""

from __future__ import annotations

import json
import statistics
import time
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from diffusion_train.utils.process.memory import peak_bytes


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
        """Medians from the end of one step to the end of the next, on a GPU by its own clock, and bytes at the peak."""
        seconds, cpu_seconds = (
            statistics.median(end - start for start, end in pairwise(ends))
            for ends in zip(*self.ends[self.warm_up :], strict=True)
        )
        if self.marks:
            self.marks[-1].synchronize()
            marks = pairwise(self.marks[self.warm_up :])
            seconds = statistics.median(start.elapsed_time(end) / 1000 for start, end in marks)
        return {"seconds": seconds, "cpu_seconds": cpu_seconds, "bytes": peak_bytes()}


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
