"""Every skipped step is on record, and too many end the run, however often it logs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import pytorch_lightning as pl

from diffusion_train.callbacks.scalars import NumericalError
from diffusion_train.callbacks.skipped_steps import SkippedSteps
from diffusion_train.data.storage.base import StorageError
from diffusion_train.run_folder import by_step
from diffusion_train.training.checkpoint.checkpoint_file import load


class Poison(pl.Callback):
    """Makes the gradient of steps infinite, numbered from 1."""

    def __init__(self, *steps: int) -> None:
        self.steps = steps

    def on_train_batch_start(self, trainer, module, batch, batch_idx) -> None:
        if trainer.global_step + 1 in self.steps:
            batch["x"].fill_(1e30)


class Stop(pl.Callback):
    """Stops the run after a step, as a signal does, although further steps are asked for."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_start(self, trainer, module) -> None:
        trainer.fit_loop.epoch_loop.max_steps = 1000

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx) -> None:
        trainer.should_stop |= trainer.global_step == self.step


def lines(run_dir: Path) -> list[dict]:
    return [json.loads(line) for line in (run_dir / "skipped_steps.jsonl").read_text().splitlines()]


def test_each_skipped_step_is_recorded_with_its_samples(run_points, tmp_path: Path) -> None:
    """The last step too, at which nothing comes after it."""
    _, recorded = run_points(tmp_path, 8, callbacks=(Poison(2, 5, 8), SkippedSteps(tmp_path, max_fraction=0.5)))
    assert [line["step"] for line in lines(tmp_path)] == [2, 5, 8]
    assert [line["keys"] for line in lines(tmp_path)] == [recorded.keys[step - 1] for step in (2, 5, 8)]


def test_a_run_without_skipped_steps_writes_nothing(run_points, tmp_path: Path) -> None:
    run_points(tmp_path, 3, callbacks=(SkippedSteps(tmp_path),))
    assert not (tmp_path / "skipped_steps.jsonl").exists()


@pytest.mark.parametrize("steps", [range(1, 99, 2), range(4, 99, 3)], ids=["every second", "every third"])
def test_too_many_skipped_steps_end_the_run_in_any_pattern(run_points, tmp_path: Path, steps: range) -> None:
    """Without two in a row, which the other limit looks for."""
    with pytest.raises(NumericalError, match=r"5 of the last \d+ steps were skipped"):
        run_points(tmp_path, 60, callbacks=(Poison(*steps), SkippedSteps(tmp_path, max_fraction=0.2, window=20)))
    assert [line["step"] for line in lines(tmp_path)] == list(steps[:5])


def test_a_run_shorter_than_the_window_does_not_end_as_done(run_points, tmp_path: Path) -> None:
    """A learning rate of 4e7 in place of 4e-7: all steps after the first are skipped."""
    with pytest.raises(NumericalError, match="2 of the last 5 steps were skipped"):
        run_points(tmp_path, 5, callbacks=(Poison(4, 5), SkippedSteps(tmp_path)))


def test_a_run_with_every_second_step_skipped_does_not_end_as_done_however_it_ends(run_points, tmp_path: Path) -> None:
    skipped = SkippedSteps(tmp_path)
    for _ in range(2):  # a run that is complete does not become done by being repeated
        newest = next(iter(by_step(tmp_path / "checkpoints")), None)
        with pytest.raises(NumericalError, match="20 of the last 40 steps were skipped"):
            run_points(tmp_path, 40, before_saving=(Poison(*range(1, 41, 2)), skipped), resume=newest)
        skipped = SkippedSteps(tmp_path)


def test_a_run_that_resumes_often_ends_too(run_points, tmp_path: Path) -> None:
    """Each part is too short to be judged, and ends with a skipped step, which is on record before it is saved."""

    def until(step: int) -> None:
        newest = next(iter(by_step(tmp_path / "checkpoints")), None)
        watching = (Poison(*range(1, 99, 2)), SkippedSteps(tmp_path, window=20), Stop(step))
        run_points(tmp_path, step, before_saving=watching, resume=newest)

    until(7)
    with pytest.raises(NumericalError, match=r"5 of the last \d+ steps were skipped"):
        until(14)
    assert [line["step"] for line in lines(tmp_path)] == [1, 3, 5, 7, 9]


@pytest.mark.parametrize("error", [StorageError, RuntimeError, KeyError])
def test_a_skipped_last_step_is_recorded_if_the_run_fails(run_points, tmp_path: Path, error: type[Exception]) -> None:
    class Failing(pl.Callback):
        def on_train_batch_start(self, trainer, module, batch, batch_idx) -> None:
            if trainer.global_step == 3:
                raise error("gone")

    with pytest.raises(error, match="gone"):
        run_points(tmp_path, 8, before_saving=(Poison(3), SkippedSteps(tmp_path), Failing()))
    assert [line["step"] for line in lines(tmp_path)] == [3]
    checkpoint = load(tmp_path / "checkpoints" / "last.ckpt")
    assert (checkpoint["global_step"], checkpoint["recently_skipped"]) == (3, [False, False, True])


def test_a_short_run_that_recovered_is_done(run_points, tmp_path: Path) -> None:
    """As a scaler of float16 does, which skips steps until its scale fits."""
    run_points(tmp_path, 5, callbacks=(Poison(1, 2), SkippedSteps(tmp_path)))
    assert [line["step"] for line in lines(tmp_path)] == [1, 2]
