"""Seconds a step and memory of fine-tuning Stable Diffusion 1.5 at 512 pixels, beside diffusers' training examples.

    python benchmarks/finetune.py [--rows diffusers/lora ours/lora ...]

The architecture is the published one; the weights are random, made once and kept in `--folder` (4.3 GB). Each row is a
process of its own: `--batch-size` samples a step, bfloat16 by autocast. Ours are runs of train.py with the recipes as
they are, diffusers' the step of its examples (finetune_peer.py). Seconds: the median after `--warm-up` steps, from the
end of one step to the end of the next; CPU seconds: likewise, of all cores together, which other work on the machine
changes less. GB: the most from the first step on, on a GPU what torch has allocated, elsewhere what was resident.
"""

from __future__ import annotations

import argparse
import json
import os
import string
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import diffusers
import torch
import transformers
from data import photo

from diffusion_train.data.shard.writer import write_shards
from diffusion_train.pretrained import diffusers_folder
from diffusion_train.pretrained.single_file import Model, write_layout
from diffusion_train.pretrained.vocabulary import END, START, Vocabulary
from diffusion_train.utils.files import atomic_folder, cache_folder

HERE = Path(__file__).parent
SIDE, NUM_IMAGES, NUM_TOKENS = 512, 32, 49408


class Row(NamedTuple):
    """Arguments of train.py or of finetune_peer.py, and the row that this one is compared with."""

    arguments: tuple[str, ...]
    peer: str


LORA, FULL = ("experiment=sd15_lora",), ("experiment=sd15_full",)
CHECKPOINTED, ENCODED = "network.gradient_checkpointing=true", "data.encoded={encoded}"
BFLOAT16 = "autoencoder.dtype=bfloat16"  # as diffusers' examples have it; the recipes keep float32
ROWS = {
    "diffusers/lora": Row(("--lora",), "diffusers/lora"),
    "ours/lora": Row(LORA, "diffusers/lora"),
    "ours/lora/bfloat16-vae": Row((*LORA, BFLOAT16), "diffusers/lora"),
    "ours/lora/encoded": Row((*LORA, ENCODED), "diffusers/lora"),
    "diffusers/lora/checkpointed": Row(("--lora", "--checkpointed"), "diffusers/lora/checkpointed"),
    "ours/lora/checkpointed": Row((*LORA, CHECKPOINTED), "diffusers/lora/checkpointed"),
    "ours/lora/encoded/checkpointed": Row((*LORA, ENCODED, CHECKPOINTED), "diffusers/lora/checkpointed"),
    "diffusers/full/checkpointed": Row(("--checkpointed",), "diffusers/full/checkpointed"),
    "ours/full/checkpointed": Row((*FULL, CHECKPOINTED), "diffusers/full/checkpointed"),
    "ours/full/encoded/checkpointed": Row((*FULL, ENCODED, CHECKPOINTED), "diffusers/full/checkpointed"),
    "diffusers/full": Row((), "diffusers/full"),
    "ours/full": Row(FULL, "diffusers/full"),
    "ours/full/encoded": Row((*FULL, ENCODED), "diffusers/full"),
}


CLI = [sys.executable, "-c", "import sys; from diffusion_train.command.cli import main; sys.exit(main())"]


class Place(NamedTuple):
    """Where the files are, and how many steps are taken."""

    model: Path
    shard: Path
    scratch: Path
    steps: int
    warm_up: int
    batch_size: int


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="*", default=[*ROWS], choices=[*ROWS])
    parser.add_argument("--steps", type=int, default=3, help="that are timed")
    parser.add_argument("--warm-up", type=int, default=1, help="steps before them")
    parser.add_argument("--batch-size", type=int, default=1, help=f"up to {NUM_IMAGES}")
    parser.add_argument("--folder", type=Path, default=cache_folder() / "benchmark_sd15", help="of the model")
    asked = parser.parse_args(arguments)
    if not asked.folder.is_dir():
        with atomic_folder(asked.folder) as folder:
            make_model(folder)
    with tempfile.TemporaryDirectory() as scratch:
        [shard] = write_shards(samples(), Path(scratch) / "shards", "part", NUM_IMAGES)
        place = Place(asked.folder.absolute(), shard, Path(scratch), asked.steps, asked.warm_up, asked.batch_size)
        print("| | seconds a step | times diffusers' | CPU seconds | GB |\n|---|---|---|---|---|", flush=True)
        found: dict[str, dict[str, float]] = {}
        for name in asked.rows:
            print(line(name, place, found), flush=True)


def line(name: str, place: Place, found: dict[str, dict[str, float]]) -> str:
    """The row of the table, whose figures are added to `found`."""
    if ENCODED in ROWS[name].arguments and not (place.scratch / "encoded").is_dir():
        called([*CLI, "encode", *LORA, *data(place), f"out={place.scratch / 'encoded'}"])
    result = measured(name, place)
    if isinstance(result, str):
        return f"| {name} | {result} | | | |"
    found[name] = result
    peer = found.get(ROWS[name].peer)
    ratio = f"{result['seconds'] / peer['seconds']:.2f}" if peer else ""
    return f"| {name} | {result['seconds']:.2f} | {ratio} | {result['cpu_seconds']:.1f} | {result['bytes'] / 1e9:.1f} |"


def measured(name: str, place: Place) -> dict[str, float] | str:
    """Or why there are no figures."""
    file = place.scratch / f"{name.replace('/', '-')}.json"
    command = peers_command(name, place) if name.startswith("diffusers/") else our_command(name, place, file)
    done = called(command)
    if done.returncode:
        return "killed, as for want of memory" if done.returncode == -9 else f"exit code {done.returncode}"
    answer = done.stdout.splitlines()[-1] if name.startswith("diffusers/") else file.read_text()
    figures: dict[str, float] = json.loads(answer)
    return figures


def peers_command(name: str, place: Place) -> list[str]:
    counts = (f"--steps={place.steps}", f"--warm-up={place.warm_up}", f"--batch-size={place.batch_size}")
    return [
        sys.executable,
        str(HERE / "finetune_peer.py"),
        str(place.model),
        str(place.shard),
        *ROWS[name].arguments,
        *counts,
    ]


def our_command(name: str, place: Place, file: Path) -> list[str]:
    """A run that neither saves nor draws, with a clock beside its callbacks."""
    words = [sys.executable, "train.py", *ROWS[name].arguments]
    words += [
        *data(place),
        f"run_dir={place.scratch / 'run' / file.stem}",
        f"trainer.max_steps={place.warm_up + place.steps}",
    ]
    words += ["trainer.precision=bf16-mixed", "trainer.devices=1", "logger=none"]
    words += ["~callbacks.checkpointing", "~allow_mismatch", "~callbacks.validation", "~callbacks.samples"]
    words += [
        "allow_targets=[meter.]",
        "+callbacks.clock._target_=meter.Clock",
        f"+callbacks.clock.file={file}",
        f"+callbacks.clock.warm_up={place.warm_up}",
    ]
    return [word.format(encoded=place.scratch / "encoded") if word == ENCODED else word for word in words]


def data(place: Place) -> list[str]:
    words = [f"pretrained={place.model}", f"data.shards={place.shard}"]
    words += [f"data.batch_size={place.batch_size}", "data.micro_batch_size=null"]
    # workers would keep copies of weights that change in the memory of a CPU
    return words if torch.cuda.is_available() else [*words, "data.num_workers=0"]


def called(command: list[str]) -> subprocess.CompletedProcess[str]:
    """With this folder's modules, from the root of the project; what fails says why."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(command, env=environment, cwd=HERE.parent, capture_output=True, text=True, check=False)
    if done.returncode:
        print(done.stderr, file=sys.stderr)
    return done


def make_model(folder: Path) -> None:
    """The published layout and settings, random weights, and a tokenizer that spells."""
    write_layout(Model("sd1", "epsilon", zero_terminal_snr=False), folder)
    torch.manual_seed(0)
    for name in diffusers_folder.WEIGHTS["sd"]:
        settings = json.loads((folder / name / "config.json").read_text())
        if "_class_name" in settings:
            model = getattr(diffusers, settings["_class_name"]).from_config(settings)
        else:
            model = transformers.CLIPTextModel(transformers.CLIPTextConfig.from_dict(settings))
        model.save_pretrained(folder / name)
    letters = string.ascii_lowercase + string.digits
    tokens = [*letters, *(f"{letter}</w>" for letter in letters)]
    tokens += [f"<{number}>" for number in range(len(tokens), NUM_TOKENS - 2)]
    numbered = {token: number for number, token in enumerate([*tokens, START, END])}
    Vocabulary(json.dumps(numbered), "#version: 0.2\n").write(folder / "tokenizer", pad=END)


def samples() -> Iterator[dict[str, Any]]:
    for number in range(NUM_IMAGES):
        yield {"__key__": f"{number:04d}", "jpg": photo(number, SIDE), "txt": f"photograph {number} of coloured shapes"}


if __name__ == "__main__":
    main()
