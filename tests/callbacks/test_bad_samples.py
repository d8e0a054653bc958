import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl

from diffusion_train.callbacks.bad_samples import BadSamples, TooManyBadSamples
from diffusion_train.data.order.order import Draw
from diffusion_train.data.points import PointsDataset
from diffusion_train.data.shard.problem import Problem
from diffusion_train.training.checkpoint.checkpoint_file import newest_whole


class Damaged(PointsDataset):
    """Every tenth point cannot be read."""

    def read(self, draws: Sequence[Draw]) -> list[dict[str, Any]]:
        samples = super().read(draws)
        for sample in samples:
            if sample["index"] % 10 == 0:
                sample["bad"] = json.dumps(vars(Problem("bad-sample", "a.tar", "torn", sample["key"], 512)))
        return samples


@pytest.fixture
def run_damaged(tmp_path: Path, run_points, monkeypatch: pytest.MonkeyPatch):
    """40 points, of which 4 are bad."""

    def run(max_steps: int, max_share: float, resume: Path | None = None) -> None:
        data = Damaged("two_moons", 40, num_holdout=5)
        run_points(tmp_path, max_steps, callbacks=(BadSamples(tmp_path, max_share),), resume=resume, dataset=data)

    return run


def _recorded(run_dir: Path) -> list[str]:
    return [json.loads(line)["key"] for line in (run_dir / "bad_samples.jsonl").read_text().splitlines()]


def _counts(run_dir: Path) -> list[int]:
    with (run_dir / "metrics.csv").open() as file:
        return [int(float(row["data/bad_samples"])) for row in csv.DictReader(file)]


def test_each_bad_sample_is_recorded_once_whatever_epoch_and_restart(tmp_path: Path, run_damaged) -> None:
    run_damaged(5, max_share=0.1)
    run_damaged(12, max_share=0.1, resume=newest_whole(tmp_path / "checkpoints"))
    assert sorted(_recorded(tmp_path)) == [f"{index:09d}" for index in (0, 10, 20, 30)]
    counts = _counts(tmp_path)
    assert counts == sorted(counts)
    assert counts[-1] == 4


class NotFinite(PointsDataset):
    """The data of one sample are no numbers, which is found only after the step."""

    def read(self, draws: Sequence[Draw]) -> list[dict[str, Any]]:
        samples = super().read(draws)
        for sample in samples:
            if sample["index"] == 7:
                sample["x"] = sample["x"] * float("nan")
        return samples


class Failing(pl.Callback):
    def on_train_batch_start(self, trainer, module, batch, batch_idx) -> None:
        if trainer.global_step == 1:
            raise KeyError("gone")


class Look(pl.Callback):
    """Notes whether the file was there at each save."""

    def __init__(self, path: Path) -> None:
        self.path, self.was_there = path, []

    def on_save_checkpoint(self, trainer, module, checkpoint) -> None:
        self.was_there.append(self.path.exists())


@pytest.mark.parametrize("every_n_steps", [1, 100], ids=["saved", "not saved"])
def test_a_bad_sample_of_the_last_step_is_recorded_before_the_step_is_saved(
    tmp_path, run_points, every_n_steps
) -> None:
    data, look = NotFinite("two_moons", 40, num_holdout=5), Look(tmp_path / "bad_samples.jsonl")
    watching = (BadSamples(tmp_path, 1.0), look, Failing())
    with pytest.raises(KeyError, match="gone"):
        run_points(tmp_path, 8, before_saving=watching, dataset=data, batch_size=35, every_n_steps=every_n_steps)
    assert look.was_there == [True]
    assert _recorded(tmp_path) == ["000000007"]


def test_too_many_bad_samples_end_the_run(tmp_path: Path, run_damaged) -> None:
    with pytest.raises(
        TooManyBadSamples, match=r"4 of 40 samples are bad, more than .*max_share=0.09; .*bad_samples.jsonl"
    ):
        run_damaged(12, max_share=0.09)
    assert len(_recorded(tmp_path)) == 4
