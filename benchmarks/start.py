"""Seconds until a command does something: the first optimizer step, the first image, the help.

    python benchmarks/start.py [--against <folder of another checkout>]

Each command is a process of its own that is killed once its first result is in a file. One run before prepares the
data, fills the caches and compiles the bytecode. The checkouts take turns, so that other work on the machine changes
both alike. Seconds on the wall and CPU seconds of the process, as the least and the median of `--repeats`.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parents[1]
POLL, LONGEST = 0.005, 300.0  # seconds


class Seconds(NamedTuple):
    wall: float
    cpu: float


class Command(NamedTuple):
    """The arguments of python, and the file in the folder `out` that shows the first result; None: the process ends."""

    arguments: Callable[[Path, int], list[str]]
    result: str | None


def sample(prompt: str) -> Callable[[Path, int], list[str]]:
    return lambda out, number: [
        *("sample.py", f"run={out.parent / 'run'}", f"out={out}", f"prompts=[{prompt}]".replace("#", str(number)))
    ]


COMMANDS = {
    "train.py: first optimizer step": Command(
        lambda out, _: ["train.py", f"run_dir={out}", "compile=false", "trainer.log_every_n_steps=1"], "metrics.csv"
    ),
    "sample.py: first image, a prompt of the run": Command(sample("red apple"), "0000_000.png"),
    "sample.py: first image, a new prompt": Command(sample("number #"), "0000_000.png"),
    "train.py --help": Command(lambda *_: ["train.py", "--help"], None),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", type=Path, help="a folder with another version of the repository")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    checkouts = [HERE, *([options.against.resolve()] if options.against else [])]
    measured: dict[tuple[str, Path], list[Seconds]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folders = {checkout: Path(scratch) / str(number) for number, checkout in enumerate(checkouts)}
        for checkout in checkouts:
            prepare(checkout, folders[checkout])
        for number in range(-1, options.repeats):
            for name, command in COMMANDS.items():
                for checkout in checkouts[:: (-1) ** (number % 2)]:
                    seconds = measure(command, checkout, folders[checkout] / f"{len(name)}_{number}", number)
                    if number >= 0:
                        measured.setdefault((name, checkout), []).append(seconds)
    print(table(measured))


def prepare(checkout: Path, folder: Path) -> None:
    """Train one step, which prepares the data and gives a run to sample from."""
    folder.mkdir()
    arguments = ["trainer.max_steps=1", "callbacks=images", "logger=none", f"run_dir={folder / 'run'}"]
    command = [sys.executable, "train.py", *arguments]
    done = subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{checkout}: {done.args}\n{done.stderr}")


def measure(command: Command, checkout: Path, out: Path, number: int) -> Seconds:
    """Run a command until its first result. Raises SystemExit with its output if it gives none."""
    environment = {**os.environ, "WANDB_MODE": "offline"}
    with tempfile.TemporaryFile() as output:
        start = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, *command.arguments(out, number)],
            cwd=checkout,
            env=environment,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        done = until(process, out / command.result if command.result else None, start)
        wall = time.perf_counter() - start
        kill_group(process)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if not done or process.returncode not in (0, -signal.SIGKILL):
            output.seek(0)
            sys.exit(f"{checkout}: {process.args}\n{output.read().decode(errors='replace')}")
    return Seconds(wall, usage.ru_utime + usage.ru_stime)


def until(process: subprocess.Popen[bytes], result: Path | None, start: float) -> bool:
    """Wait for the result, or without one for the end of the process; return whether it came."""
    while time.perf_counter() - start < LONGEST:
        if result is not None and result.exists() and result.stat().st_size:
            return True
        if os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG):
            return result is None or result.exists()
        time.sleep(POLL)
    return False


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and those that it started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def table(measured: dict[tuple[str, Path], list[Seconds]]) -> str:
    lines = ["| | | wall, least | wall, median | CPU, least | CPU, median |", "|---|---|---|---|---|---|"]
    for (name, checkout), times in measured.items():
        whose = "this checkout" if checkout == HERE else "the other"
        figures = [f"{value:.2f}" for values in zip(*times, strict=True) for value in summary(values)]
        lines.append(f"| {name} | {whose} | {' | '.join(figures)} |")
    return "\n".join(lines)


def summary(values: Sequence[float]) -> tuple[float, float]:
    return min(values), statistics.median(values)


if __name__ == "__main__":
    main()
