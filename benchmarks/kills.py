"""Kills a training run of two processes again and again, and compares it with a run that nobody kills.

    python benchmarks/kills.py                     # 50 kills, about half an hour on two cores; needs Linux
    python benchmarks/kills.py --kills 5

Both runs train on the packaged icons with the same settings and save every 5 steps. SIGKILL ends the second run at a
random moment: while it starts, trains, validates, draws samples or saves. It ends all processes at once, or first a
random one of them (a trainer or a data worker) and the others up to 3 seconds later. The same command then resumes the
run; once it is done, the next kill meets a new one.

After each kill, every checkpoint that the run has written must equal the checkpoint of the same step of the first run,
bit for bit: weights, averages, optimizer, learning rate and position in the data. Each step on record must have the
sample keys and the losses of the same step of the first run. In the end, the run continues to its last step.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from diffusion_train.run_folder import by_step
from diffusion_train.training.checkpoint.checkpoint_file import load

ROOT = Path(__file__).parents[1]
NUM_STEPS, EVERY = 200, 5
SETTINGS = (
    f"trainer=ddp_cpu trainer.max_steps={NUM_STEPS} trainer.log_every_n_steps=5 callbacks=images report=false "
    f"callbacks.checkpointing.every_n_steps={EVERY} callbacks.checkpointing.num_kept={NUM_STEPS} "
    "callbacks.validation.every.num_steps=30 callbacks.validation.num_samples=4 callbacks.samples.every.num_steps=40 "
    "callbacks.samples.num_samples=2 sampler.num_steps=5 data.batch_size=8 data.num_workers=1 debug=record_samples "
    "logger=none network=unet_tiny network.channels=[32,32,32]"
).split()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    ask = parser.parse_args(arguments)
    draw = random.Random(ask.seed)
    with tempfile.TemporaryDirectory() as folder:
        whole, killed = Path(folder) / "whole", Path(folder) / "killed"
        start = time.monotonic()
        train_to_the_end(whole)
        seconds = time.monotonic() - start
        num_compared, unequal = 0, []
        for number in range(1, ask.kills + 1):
            moment, delay = draw.uniform(0, seconds), draw.choice((None, draw.uniform(0, 3)))
            how = kill_at(start_training(killed), moment, delay, draw)
            checkpoints, differences = compare(killed, whole)
            num_compared, unequal = num_compared + checkpoints, [*unequal, *differences]
            step = max((step_of(path) for path in by_step(killed / "checkpoints")), default=0)
            print(f"kill {number}: {how}; saved step {step}: {', '.join(differences) or 'equal'}", flush=True)
            if step == NUM_STEPS:
                shutil.rmtree(killed)
        train_to_the_end(killed)
        checkpoints, differences = compare(killed, whole)
        print(f"continued to step {NUM_STEPS}: {', '.join(differences) or 'equal'}")
    unequal += differences
    print(f"{num_compared + checkpoints} checkpoints compared after {ask.kills} kills, {len(unequal)} differences")
    sys.exit(1 if unequal else 0)


def start_training(run_dir: Path) -> subprocess.Popen[bytes]:
    """Start or resume the run in a session of its own, which all its processes share."""
    log = (run_dir.parent / f"{run_dir.name}.log").open("wb")
    command = [sys.executable, "train.py", *SETTINGS, f"run_dir={run_dir}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, start_new_session=True, env=environment)


def train_to_the_end(run_dir: Path) -> None:
    code = start_training(run_dir).wait()
    if code:
        sys.exit(f"the run ended with exit code {code}:\n{(run_dir.parent / f'{run_dir.name}.log').read_text()}")


def kill_at(process: subprocess.Popen[bytes], moment: float, delay: float | None, draw: random.Random) -> str:
    """Kill the run after `moment` seconds; if `delay` is given, a random process first and the others `delay` later."""
    with suppress(subprocess.TimeoutExpired):
        if code := process.wait(moment):
            sys.exit(f"a resumed run ended by itself with exit code {code}")
        return f"done before {moment:.1f} s"
    what = f"after {moment:.1f} s"
    if delay is not None and (members := session(process.pid)):
        kill([draw.choice(members)])
        time.sleep(delay)
        what += f", one process {delay:.1f} s before the others"
    while members := session(process.pid):
        kill(members)
        process.poll()
        time.sleep(0.05)
    return what


def kill(processes: Sequence[int]) -> None:
    for number in processes:
        with suppress(ProcessLookupError):
            os.kill(number, signal.SIGKILL)


def session(leader: int) -> list[int]:
    """Return the living processes of a session."""
    members = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, _, _, of_session = stat.read_text().rpartition(")")[2].split()[:4]
            if int(of_session) == leader and state not in "ZX":
                members.append(int(stat.parent.name))
    return members


def compare(killed: Path, whole: Path) -> tuple[int, list[str]]:
    """Compare the checkpoints and the record of samples of both runs.

    Returns the number of checkpoints, and the steps with what differs.
    """
    checkpoints = by_step(killed / "checkpoints")
    differences = []
    for path in checkpoints:
        ours, theirs = state(path), state(whole / "checkpoints" / path.name)
        differences += [f"{path.name}: {name}" for name in ours if not equal(ours[name], theirs[name])]
    recorded, right = record(killed), record(whole)
    differences += [f"samples of step {line['step']}" for line in recorded if line != right[line["step"] - 1]]
    return len(checkpoints), differences


def state(path: Path) -> dict[str, Any]:
    """Return everything that decides the next step; what the run is called and where it lies may differ."""
    checkpoint = load(path)
    facts = checkpoint["diffusion_train"]
    names = ("state_dict", "optimizer_states", "lr_schedulers", "ema", "skipped_in_a_row", "global_step")
    return {name: checkpoint[name] for name in names} | {name: facts[name] for name in ("cursor", "course", "identity")}


def record(run_dir: Path) -> list[dict[str, Any]]:
    """Return the whole lines of the record of samples; a kill may leave half of the last one."""
    file = run_dir / "samples_seen.jsonl"
    lines = file.read_text("utf-8").splitlines(keepends=True) if file.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def equal(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and torch.equal(one, other)
    if isinstance(one, dict):
        return (
            isinstance(other, dict) and one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
        )
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(equal, one, other))
    return bool(one == other)


def step_of(path: Path) -> int:
    return int(path.stem.partition("_")[2])


if __name__ == "__main__":
    main()
