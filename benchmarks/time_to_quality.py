"""Quality of samples after the same minutes of training, beside other libraries and an earlier commit.

    python benchmarks/time_to_quality.py [--against <folder of another checkout>] [--sides ours ...] [--out <folder>]

All sides train on the 1,507 training images of OpenMoji at 32 px, the text-conditional ones with the same embeddings of
the captions. `ours` is train.py as it is, `against` that of the other checkout, both without sample grids, validation
and quality: one run for each number of minutes, since a schedule may depend on the time budget. A peer
(time_to_quality_peers.py) is measured at all minutes of one run, with the default network of its trainer or example
and, as <peer>/small, with one of the size of ours at the best of `--learning-rates`.

The sides train in turns of `--slice` seconds, so that other work on the machine changes all alike; only one trains at a
time. Time to start and to measure does not count. All samples are measured by this checkout's code, as quality.py does:
KID-efflite0 to 1,024 training images and retrieval, for 512 training captions and for the 200 held-out ones. Samples of
a peer take `--sampling-steps` steps of DDIM. An unconditional peer has a KID alone. Writes results.json, kid.svg,
kid.png and a grid of samples a side to `--out`.

    pip install "diffusion_train[demo,pretrained]"
    pip install --no-deps denoising-diffusion-pytorch ema-pytorch einops

installs the peers. torchvision may be absent: a stub replaces it while denoising-diffusion-pytorch is imported, which
uses it only to read and write image files. The default network of diffusers/text-to-image has 860 M parameters and
needs 20 GB, so it trains only if `--sides` names it. On a CPU, drawing the samples of the peers' default networks takes
longer than training them; fewer `--sampling-steps` or `--sides` shorten it.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from time_to_quality_judge import Judge
from time_to_quality_peers import PEERS
from time_to_quality_report import Row, table, write_report
from turns import Failed, Progress, Trainee

from diffusion_train import config
from diffusion_train.picture import save_png
from diffusion_train.utils.tensor import best_device

HERE = Path(__file__).resolve().parent
OURS, AGAINST, SMALL = "ours", "against", "/small"
SIDES = [OURS, AGAINST, *(side for peer in PEERS for side in (peer, peer + SMALL))]
NOT_TRAINING = ["logger=none", "~callbacks.validation", "~callbacks.quality"]


def main() -> None:
    asked = parsed()
    for folder in ("logs", "samples"):
        (asked.out / folder).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        try:
            run_all(asked, Path(name))
        except Failed as error:
            sys.exit(str(error))


def run_all(asked: argparse.Namespace, scratch: Path) -> None:
    prepare(HERE.parent, scratch / "run")
    if AGAINST in asked.sides:
        prepare(asked.against, scratch / "run_against")
    judge = Judge(config.load_run_config(scratch / "run"), asked.num_samples)
    torch.save(judge.material(), scratch / "data.pt")
    (scratch / "prompts.json").write_text(json.dumps(judge.prompts))
    entrants = list(all_entrants(asked, scratch))
    try:
        compete(entrants, asked, judge)
    finally:
        for entrant in entrants:
            entrant.trainee.stop()


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", type=Path, help="a folder with another version of the repository")
    parser.add_argument("--sides", nargs="+", choices=SIDES, help="default: all but diffusers/text-to-image")
    parser.add_argument("--minutes", nargs="+", type=float, default=[3.0, 8.0, 15.0])
    parser.add_argument("--learning-rates", nargs="+", type=float, default=[3e-4, 1e-3, 3e-3], help="of small peers")
    parser.add_argument("--sampling-steps", type=int, default=50, help="of a peer")
    parser.add_argument("--slice", type=float, default=30.0, help="seconds of a turn")
    parser.add_argument("--num-samples", type=int, default=512, help="training captions sampled, once each")
    parser.add_argument("--out", type=Path, default=Path("runs/time_to_quality"))
    asked = parser.parse_args()
    asked.sides = asked.sides or [side for side in SIDES if side not in (AGAINST, "diffusers/text-to-image")]
    if asked.against:
        asked.against = asked.against.resolve()
        asked.sides = list(dict.fromkeys([*asked.sides, AGAINST]))
    elif AGAINST in asked.sides:
        parser.error(f"--sides {AGAINST}: needs --against <folder of another checkout>")
    asked.minutes, asked.out = sorted(asked.minutes), asked.out.resolve()
    return asked


def prepare(checkout: Path, run: Path) -> None:
    """Train one step, which prepares the data, fills the caches and compiles the bytecode."""
    words = ["trainer.max_steps=1", "trainer.devices=1", *NOT_TRAINING, f"run_dir={run}"]
    called([sys.executable, "train.py", *words], checkout)


def called(command: list[str], cwd: Path, environment: dict[str, str] | None = None) -> None:
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Failed(f"{cwd}: {' '.join(command)}\n{done.stdout}{done.stderr}")


@dataclass
class Entrant:
    """A side, or one run of it, with the minutes at which it is measured.

    `samples` writes its samples for all prompts to a file.
    """

    side: str
    trainee: Trainee
    minutes: list[float]
    sample: Callable[[Path], None]
    learning_rate: float | None = None
    is_run: bool = False  # trains until its own time budget ends it


def all_entrants(asked: argparse.Namespace, scratch: Path) -> Iterator[Entrant]:
    for side in asked.sides:
        if side in (OURS, AGAINST):
            checkout = HERE.parent if side == OURS else asked.against
            yield from (run_of(checkout, side, minutes, asked, scratch) for minutes in asked.minutes)
        else:
            rates = asked.learning_rates if side.endswith(SMALL) else [None]
            yield from (peer_of(side, rate, asked, scratch) for rate in rates)


def run_of(checkout: Path, side: str, minutes: float, asked: argparse.Namespace, scratch: Path) -> Entrant:
    """A run of a checkout's train.py with a time budget."""
    name = f"{side}_{minutes:g}"
    words = [f"run_dir={scratch / name}", f"callbacks.time_budget.minutes={minutes}", "trainer.devices=1"]
    words += ["~callbacks.samples", *NOT_TRAINING, "allow_targets=[time_to_quality_ours.]"]
    words += ["+callbacks.turns._target_=time_to_quality_ours.TakeTurns"]

    def command(goals: int, answers: int) -> list[str]:
        pipes = [f"+callbacks.turns.goals={goals}", f"+callbacks.turns.answers={answers}"]
        return [sys.executable, "train.py", *words, *pipes]

    def sample(file: Path) -> None:
        trainee.wait()
        script, prompts = str(HERE / "time_to_quality_ours.py"), str(scratch / "prompts.json")
        arguments = [str(scratch / name), prompts, str(file), best_device()]
        called([sys.executable, script, *arguments], checkout, {**os.environ, **path(checkout)})

    trainee = Trainee(command, checkout, path(HERE), asked.out / "logs" / f"{name}.log")
    return Entrant(side, trainee, [minutes], sample, is_run=True)


def peer_of(side: str, rate: float | None, asked: argparse.Namespace, scratch: Path) -> Entrant:
    words = [side.removesuffix(SMALL), str(scratch / "data.pt"), f"--sampling-steps={asked.sampling_steps}"]
    words += ["--small"] if side.endswith(SMALL) else []
    words += [] if rate is None else [f"--learning-rate={rate}"]

    def command(goals: int, answers: int) -> list[str]:
        return [sys.executable, str(HERE / "time_to_quality_loop.py"), *words, str(goals), str(answers)]

    log = asked.out / "logs" / f"{file_name(side)}{'' if rate is None else f'_{rate:g}'}.log"
    trainee = Trainee(command, HERE.parent, path(HERE.parent), log)
    return Entrant(side, trainee, [*asked.minutes], trainee.sample, rate)


def path(folder: Path) -> dict[str, str]:
    """The environment in which a folder's modules come first."""
    return {"PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])}


def file_name(side: str) -> str:
    return side.replace("/", "-")


def compete(entrants: list[Entrant], asked: argparse.Namespace, judge: Judge) -> None:
    """Let all sides train and be measured. The order of the turns changes each round."""
    rows: list[Row] = []
    settings = {name: str(value) if isinstance(value, Path) else value for name, value in vars(asked).items()}
    settings |= {"device": best_device(), "threads": torch.get_num_threads()}
    goal, number = 0.0, 0
    while any(entrant.minutes for entrant in entrants):
        goal, number = goal + asked.slice, number + 1
        for entrant in entrants[:: (-1) ** number]:
            for row in turn(entrant, goal, judge, asked.out):
                rows.append(row)
                figures = row.failure or f"KID {row.kid:.3f}, started in {row.start_seconds:.1f} s"
                print(f"{row.minutes:g} minutes, {row.name}: {row.steps:,} steps, {figures}", flush=True)
                write_report(rows, judge.kid_of_real, settings, asked.out)
    print(table(rows, judge.kid_of_real))


def turn(entrant: Entrant, goal: float, judge: Judge, out: Path) -> Iterator[Row]:
    """Train an entrant until its `goal` in seconds; yield a row for each time of measurement on the way."""
    try:
        while entrant.minutes:
            end = 60 * entrant.minutes[0]
            # the time budget of a run ends it at the first logged step after its end
            progress = entrant.trainee.train(min(goal, end) if goal < end or not entrant.is_run else math.inf)
            if goal < end:
                return
            yield measured(entrant, progress, judge, out)
            entrant.minutes.pop(0)
        entrant.trainee.stop()
    except Failed as error:
        yield from (
            Row(entrant.side, minutes, entrant.learning_rate, failure=str(error)) for minutes in entrant.minutes
        )
        entrant.minutes.clear()


def measured(entrant: Entrant, progress: Progress, judge: Judge, out: Path) -> Row:
    with tempfile.TemporaryDirectory() as scratch:
        entrant.sample(Path(scratch) / "samples.pt")
        samples = torch.load(Path(scratch) / "samples.pt", weights_only=True)
    trainee, minutes = entrant.trainee, entrant.minutes[0]
    row = Row(
        side=entrant.side,
        minutes=minutes,
        learning_rate=entrant.learning_rate,
        parameters=trainee.facts["parameters"],
        start_seconds=trainee.start_seconds,
        seconds=progress.seconds,
        steps=progress.steps,
        samples=progress.samples,
        **judge.measures(samples),
    )
    save_png(judge.grid(samples), out / "samples" / f"{file_name(row.name)}_{minutes:g}.png")
    return row


if __name__ == "__main__":
    main()
