"""Images/s of training, beside diffusers' example of unconditional training, or beside an earlier commit.

    python benchmarks/step.py [--rows float32 ...] [settings of train.py ...]
    python benchmarks/step.py --against <folder of another checkout> [settings of both ...]

Without `--against`, the same new UNet2DModel is trained by train.py (experiment=ddpm_cifar_style) and by the loop of
diffusers' example under accelerate (step_peer.py). The row "defaults" has the precision that each side chooses by
itself, the others have the same on both sides. With `--against`, the default run of this checkout is compared with that
of the other.

Each run is a process of its own without saving, validation and samples. Both sides alternate, and the order changes
from round to round. Images/s: over all steps after the first `--warm-up`. MFU: the FLOP of a step, counted by torch,
over its time and over what a product of large matrices reaches in the same process, in the precision of the run.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

from data import photo
from meter import machine, pairs, spread
from omegaconf import OmegaConf

from diffusion_train.data.shard.writer import write_shards

HERE = Path(__file__).resolve().parents[1]
SIDE, NUM_IMAGES = 32, 1024
QUIET = ("logger=none", "~callbacks.checkpointing", "~allow_mismatch", "~callbacks.validation", "~callbacks.samples")
DDPM = ("experiment=ddpm_cifar_style", "network=diffusers_unet", "trainer.devices=1")


class Row(NamedTuple):
    """Arguments of train.py and of step_peer.py."""

    ours: tuple[str, ...]
    theirs: tuple[str, ...]


# train.py allows TF32 where a GPU has it
ROWS = {
    "defaults": Row((), ()),
    "float32": Row(("trainer.precision=32-true",), ("--mixed-precision=no", "--matmul-precision=high")),
    "bfloat16": Row(("trainer.precision=bf16-mixed",), ("--mixed-precision=bf16", "--matmul-precision=high")),
}


class Speed(NamedTuple):
    images: float  # per second
    mfu: float
    precision: str


class Place(NamedTuple):
    """Where the files are, and what is asked."""

    shard: Path
    scratch: Path
    asked: argparse.Namespace


def main(arguments: Sequence[str] | None = None) -> None:
    asked = parsed(arguments)
    print(machine())
    with tempfile.TemporaryDirectory() as scratch:
        shards = write_shards(samples(), Path(scratch) / "shards", "part", NUM_IMAGES)
        place = Place(shards[0], Path(scratch), asked)
        if asked.against:
            versions = (partial(default_run, place, checkout) for checkout in (HERE, asked.against.resolve()))
            report("default run", "before", *versions, rounds=asked.rounds)
        else:
            for name in asked.rows:
                sides = (partial(ours, place, ROWS[name]), partial(theirs, place, ROWS[name]))
                report(name, "diffusers", *sides, rounds=asked.rounds)


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", type=Path, help="a folder with another version of the repository")
    parser.add_argument("--rows", nargs="*", default=["defaults", "float32"], choices=[*ROWS])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=20, help="that are timed")
    parser.add_argument("--warm-up", type=int, default=3, help="steps before them, at least 1")
    parser.add_argument("--batch-size", type=int, default=32, help=f"up to {NUM_IMAGES}; not with --against")
    parser.add_argument("--channels", type=int, nargs="+", default=[64, 128, 256], help="block_out_channels")
    parser.add_argument("--ema", action="store_true", help="the example averages weights, as train.py always does")
    words = sys.argv[1:] if arguments is None else arguments
    settings = [word for word in words if word.startswith("~") or ("=" in word and not word.startswith("-"))]
    asked = parser.parse_args([word for word in words if word not in settings])
    asked.settings = settings
    if asked.warm_up < 1:
        parser.error("--warm-up must be at least 1: the FLOP of the first step are counted, which takes time")
    return asked


def report(name: str, other: str, ours: Any, theirs: Any, rounds: int) -> None:
    """Print a table of the rounds, and the median of their ratios with its range."""
    print(f"\n| {name} | ours, images/s | MFU | {other}, images/s | MFU | ratio |")
    print("|---|---|---|---|---|---|", flush=True)
    speeds = []
    for number, pair in enumerate(pairs(ours, theirs, rounds), 1):
        speeds.append(pair)
        cells = [f"{speed.images:.2f} ({speed.precision}) | {100 * speed.mfu:.1f} %" for speed in pair]
        print(f"| round {number} | {' | '.join(cells)} | {pair[0].images / pair[1].images:.2f} |", flush=True)
    ratios = [mine.images / peers.images for mine, peers in speeds]
    print(f"{name}: {spread(ratios)} times the images/s of {other}, median and range of {rounds} rounds", flush=True)


def ours(place: Place, row: Row) -> Speed:
    """Train the UNet2DModel by train.py."""
    words = [*DDPM, f"data.shards={place.shard}", f"data.batch_size={place.asked.batch_size}", *row.ours]
    words += [f"network.model.{key}={json.dumps(value)}" for key, value in model(place.asked.channels).items()]
    return run(place, HERE, words)


def default_run(place: Place, checkout: Path) -> Speed:
    return run(place, checkout, ["~callbacks.quality"])


_numbers = count()


def run(place: Place, checkout: Path, words: list[str]) -> Speed:
    """Run train.py of a checkout, with a clock beside its callbacks."""
    folder = place.scratch / f"run{next(_numbers)}"
    file = folder.with_suffix(".json")
    words = ["train.py", *words, *QUIET, *place.asked.settings, f"run_dir={folder}", "allow_targets=[step_clock.]"]
    clock = {"_target_": "step_clock.StepClock", "file": file, "warm_up": place.asked.warm_up}
    clock["num_steps"] = place.asked.steps
    words += [f"+callbacks.clock.{key}={value}" for key, value in clock.items()]
    called(words, checkout, expected=(0, 75))  # 75: the clock ended it
    cfg = OmegaConf.load(folder / "config.yaml")
    return speed(json.loads(file.read_text()), cfg.data.batch_size, cfg.trainer.precision)


def theirs(place: Place, row: Row) -> Speed:
    """Train the UNet2DModel by the loop of diffusers' example."""
    asked = place.asked
    plain: Any = OmegaConf.to_container(OmegaConf.load(HERE / "conf/network/diffusers_unet.yaml").model)
    config = json.dumps(plain | model(asked.channels))
    words = [str(HERE / "benchmarks/step_peer.py"), str(place.shard), config]
    words += [f"--steps={asked.steps}", f"--warm-up={asked.warm_up}", f"--batch-size={asked.batch_size}"]
    answer = called([*words, *row.theirs, *(["--ema"] if asked.ema else [])], HERE)
    precision = next((word.partition("=")[2] for word in row.theirs if word.startswith("--mixed")), "no")
    return speed(json.loads(answer.splitlines()[-1]), asked.batch_size, precision)


def model(channels: Sequence[int]) -> dict[str, Any]:
    """Return settings of a UNet2DModel, with attention on all levels but the finest."""
    coarser = len(channels) - 1
    return {
        "block_out_channels": [*channels],
        "down_block_types": ["DownBlock2D", *["AttnDownBlock2D"] * coarser],
        "up_block_types": [*["AttnUpBlock2D"] * coarser, "UpBlock2D"],
    }


def speed(figures: dict[str, float], batch_size: int, precision: str) -> Speed:
    seconds = figures["mean_seconds"]
    return Speed(batch_size / seconds, figures["flop"] / seconds / figures["peak_flop"], precision)


def called(words: list[str], checkout: Path, expected: Sequence[int] = (0,)) -> str:
    """Return the output of python in a checkout, with this folder's modules. Raises SystemExit with what fails."""
    path = os.pathsep.join([str(HERE / "benchmarks"), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    environment = {**os.environ, "PYTHONPATH": path}
    command = [sys.executable, *words]
    done = subprocess.run(command, env=environment, cwd=checkout, capture_output=True, text=True, check=False)
    if done.returncode not in expected:
        sys.exit(f"{checkout}: {' '.join(command)}\nexit code {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def samples() -> Iterator[dict[str, Any]]:
    for number in range(NUM_IMAGES):
        yield {"__key__": f"{number:04d}", "jpg": photo(number, SIDE), "txt": f"photograph {number} of coloured shapes"}


if __name__ == "__main__":
    main()
