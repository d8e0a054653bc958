"""Processes that train in turns, so that other work on the machine changes all of them alike.

A `Trainee` is the parent's end of a process that trains, `Turns` the process's own end. Lines of JSON go both ways over
two pipes. The parent gives a goal in seconds of training; the process trains until it has trained that long, answers
with its counts, and waits. A process that waits holds no core.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch

Command = Callable[[int, int], list[str]]  # file descriptors of the goals and of the answers -> arguments


class Failed(Exception):
    """The process ended before it was done."""


class Progress(NamedTuple):
    """What a process has done so far: seconds of training, optimizer steps, samples seen. `done`: it trains no more."""

    seconds: float = 0.0
    steps: int = 0
    samples: int = 0
    done: bool = False


class Trainee:
    """A process that trains. It starts at its first goal, and its output is in the file `log`."""

    def __init__(self, command: Command, cwd: Path, environment: Mapping[str, str], log: Path) -> None:
        self.command, self.cwd, self.log = command, cwd, log
        self.environment = {**os.environ, **environment}
        self.progress = Progress()
        self.start_seconds = 0.0
        self.facts: dict[str, Any] = {}
        self._process: subprocess.Popen[bytes] | None = None

    def train(self, seconds: float) -> Progress:
        """Train until it has trained for `seconds`, counted from its first step. Raises Failed."""
        if self._process is None:
            self._start()
        if not self.progress.done and self.progress.seconds < seconds:
            self.progress = Progress(**self._ask({"train": seconds}))
        return self.progress

    def sample(self, file: Path) -> None:
        """Let the process write its samples to a file. Raises Failed."""
        self._ask({"sample": str(file)})

    def wait(self) -> None:
        """Wait until a process that is done has ended. Raises Failed."""
        assert self._process is not None
        if self._process.wait():
            raise self._failure()

    def stop(self) -> None:
        """Kill the process and those that it started."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def _start(self) -> None:
        began = time.monotonic()
        goals, self._goals = os.pipe()
        self._answers, answers = os.pipe()
        self._reader = os.fdopen(self._answers)
        with self.log.open("wb") as output:
            self._process = subprocess.Popen(
                self.command(goals, answers),
                cwd=self.cwd,
                env=self.environment,
                stdout=output,
                stderr=output,
                pass_fds=(goals, answers),
                start_new_session=True,
            )
        os.close(goals)
        os.close(answers)
        self.facts = self._answer()
        self.start_seconds = time.monotonic() - began

    def _ask(self, command: dict[str, Any]) -> dict[str, Any]:
        with suppress(BrokenPipeError):
            os.write(self._goals, f"{json.dumps(command)}\n".encode())
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        line = self._reader.readline()
        if not line:
            raise self._failure()
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _failure(self) -> Failed:
        assert self._process is not None
        code = self._process.wait()
        return Failed("killed, as for lack of memory" if code == -signal.SIGKILL else f"exit code {code}: {self.log}")


class Turns:
    """Call `start` before the first step, `step` after each and `finish` after the last one.

    `step` waits for the next turn when the goal is reached. `clock` is a monotonic clock that stands still meanwhile.
    """

    def __init__(self, goals: int, answers: int, sample: Callable[[Path], None] | None = None) -> None:
        self._goals, self._answers = os.fdopen(goals), os.fdopen(answers, "w")
        self._sample = sample
        self._paused = self._start = self._goal = 0.0  # seconds
        self._steps = self._samples = 0

    def start(self, **facts: Any) -> None:
        self._send(facts)
        self._wait()
        self._start = self.clock()

    def step(self, num_samples: int) -> None:
        self._steps += 1
        self._samples += num_samples
        if self.clock() - self._start >= self._goal:
            self._report()
            self._wait()

    def finish(self) -> None:
        self._report(done=True)

    def clock(self) -> float:
        return time.monotonic() - self._paused

    def _report(self, done: bool = False) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self._send(Progress(self.clock() - self._start, self._steps, self._samples, done)._asdict())

    def _wait(self) -> None:
        """Return at the next goal. Raises SystemExit if the parent has closed the pipe."""
        began = time.monotonic()
        while line := self._goals.readline():
            command = json.loads(line)
            if "train" in command:
                self._goal = command["train"]
                self._paused += time.monotonic() - began
                return
            assert self._sample is not None
            self._sample(Path(command["sample"]))
            self._send({})
        raise SystemExit

    def _send(self, answer: dict[str, Any]) -> None:
        print(json.dumps(answer), file=self._answers, flush=True)
