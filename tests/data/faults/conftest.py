"""Each fault is planted and met where a user meets it: in the data set, or in the command that trains."""

from __future__ import annotations

import csv
import hashlib
import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from diffusion_train.command import cli
from diffusion_train.data.caption.captions import Captions
from diffusion_train.data.caption.source import TextMember
from diffusion_train.data.dataset import ShardDataset
from diffusion_train.data.image.preprocess import Preprocess
from diffusion_train.data.image.transform import ImageTransform
from diffusion_train.data.order.order import Draw
from diffusion_train.data.selection import Selection

Pairs = set[tuple[str, str, str]]
SMALL = (
    "experiment=ddpm_cifar_style",
    "network.channels=[32]",
    "network.num_blocks=[1]",
    "network.attention=[false]",
    "callbacks.samples.every={num_steps: 1000, first: 1000, at_end: false}",
    "callbacks.bad_samples.max_share=1",
    "debug=record_samples",
    "logger=none",
    "data.image_size=8",
    "data.batch_size=4",
    "data.num_workers=0",
    "trainer.accelerator=cpu",
    "trainer.devices=1",
    "trainer.precision=32-true",
    "trainer.log_every_n_steps=1",
    "trainer.max_steps=3",
)


class Run(NamedTuple):
    """How a training ended; what it printed to stderr, with what went to the log; its folder."""

    code: int
    told: str
    folder: Path

    @property
    def bad(self) -> list[dict[str, Any]]:
        path = self.folder / "bad_samples.jsonl"
        return [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.exists() else []

    @property
    def num_bad(self) -> int:
        """The last `data/bad_samples` logged."""
        with (self.folder / "metrics.csv").open() as file:
            return int(float(list(csv.DictReader(file))[-1]["data/bad_samples"]))

    @property
    def batches(self) -> list[list[str]]:
        """The keys of every step."""
        lines = (self.folder / "samples_seen.jsonl").read_text("utf-8").splitlines()
        return [json.loads(line)["keys"] for line in lines]

    @property
    def keys(self) -> set[str]:
        return {key for batch in self.batches for key in batch}


@pytest.fixture
def train(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> Iterator[Callable[..., Run]]:
    """(shards, overrides ..., folder) -> the run of a tiny network, in this process."""

    def run(shards: Sequence[Path | str] | Path | str, *overrides: str, folder: str = "run") -> Run:
        listed = [shards] if isinstance(shards, Path | str) else shards
        names = ",".join(f"'{shard}'" for shard in listed)
        code = cli.main(["train", *SMALL, f"run_dir={tmp_path / folder}", f"data.shards=[{names}]", *overrides])
        return Run(code, capsys.readouterr().err + caplog.text, tmp_path / folder)

    with warnings.catch_warnings():
        yield run


@pytest.fixture
def make_dataset() -> Callable[..., ShardDataset]:
    """(shards, what `Selection` takes, captions' own options) -> their data set at 8 pixels a side."""

    def make(shards: Any, missing: str = "error", animated: str = "first", **options: Any) -> ShardDataset:
        captions = options.pop("captions", None) or Captions(TextMember(), missing=missing)  # type: ignore[arg-type]
        transform = options.pop("transform", None) or ImageTransform(8)
        preprocess = Preprocess(transform, animated=animated)  # type: ignore[arg-type]
        verify, storage = options.pop("verify", True), options.pop("storage", None)
        return ShardDataset(shards, preprocess, captions, Selection(**options), storage, verify=verify)

    return make


@pytest.fixture
def read() -> Callable[[ShardDataset], list[dict[str, Any]]]:
    """Every sample of a data set in its order."""
    return lambda dataset: dataset.read([Draw(0, index) for index in range(len(dataset))])


@pytest.fixture
def pairs(read) -> Callable[[ShardDataset], Pairs]:
    """(key, hash of the image, caption) of all that a data set gives, substitutes apart."""

    def given(dataset: ShardDataset) -> Pairs:
        whole = (sample for sample in read(dataset) if not sample["bad"])
        return {(one["key"], hashlib.sha256(one["x"].numpy()).hexdigest(), one["caption"]) for one in whole}

    return given
